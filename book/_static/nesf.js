// Figures are enlarged by a click or a button; what is wider than the page can be moved with the keys.
document.addEventListener("DOMContentLoaded", function () {
  "use strict";
  function enlarge(plot) {
    const dialog = document.createElement("dialog"), close = document.createElement("button");
    dialog.className = "nesf-large";
    dialog.setAttribute("aria-label", "enlarged figure");
    close.className = "nesf-enlarge";
    close.textContent = "close";
    dialog.append(close, plot.cloneNode(true));
    dialog.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  }
  // Frames that hold more than they show get a place in the order of the tab key, and only these.
  function reachable() {
    for (const frame of document.querySelectorAll(".bd-article .output, .pst-scrollable-table-container, .nesf-frame, .bd-article div.formula, .bd-article pre")) {
      if (frame.scrollWidth > frame.clientWidth + 1) frame.tabIndex = 0;
      else frame.removeAttribute("tabindex");
    }
  }
  for (const plot of document.querySelectorAll("svg.nesf-plot")) {
    const button = document.createElement("button");
    button.className = "nesf-enlarge";
    button.type = "button";
    button.textContent = "enlarge";
    button.addEventListener("click", () => enlarge(plot));
    plot.addEventListener("click", () => enlarge(plot));
    plot.parentElement.after(button);
  }
  reachable();
  addEventListener("load", reachable);
  addEventListener("resize", reachable);
  document.addEventListener("toggle", reachable, true);
});
