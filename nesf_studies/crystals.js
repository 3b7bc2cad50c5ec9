// Views of crystals, pictures and points in pages and notebooks: nesf_studies/viewer.py writes this file into each cell that shows one,
// with a call of one of the functions that are returned at the end. 3Dmol.js is loaded once a page; without it, or without WebGL, pictures stay.
const nesfViews = (function () {
  "use strict";
  const byId = (id) => document.getElementById(id);

  // Call draw() once 3Dmol.js is there, unless the browser cannot draw in 3-D.
  function with3Dmol(file, draw) {
    if (!window.__3dmol) {
      window.__3dmol = window.$3Dmol ? Promise.resolve() : new Promise(function (done) {
        const define = window.define; // beside require.js it would not set window.$3Dmol
        const script = document.createElement("script");
        window.define = undefined;
        script.onload = script.onerror = function () {
          if (define) window.define = define;
          done();
        };
        script.src = file;
        document.head.appendChild(script);
      });
    }
    window.__3dmol.then(function () {
      const context = document.createElement("canvas").getContext("webgl");
      if (!context || !window.$3Dmol) return;
      const lose = context.getExtension("WEBGL_lose_context"); // it would count among the views that a browser allows
      if (lose) lose.loseContext();
      draw();
    });
  }

  // Call build() when an element comes into sight, once.
  function inSight(element, build) {
    if (!window.IntersectionObserver) return build();
    const watcher = new window.IntersectionObserver(function (seen) {
      if (!seen.some((entry) => entry.isIntersecting)) return;
      watcher.disconnect();
      build();
    }, { rootMargin: "150px" });
    watcher.observe(element);
  }

  // A viewer in place of the picture in an element. It takes wheel, finger and keys only after a click or Enter, so that nobody is caught
  // in it while scrolling; Escape, a click elsewhere or the pointer leaving it end that.
  function newViewer(element) {
    const name = element.getAttribute("data-name") || "crystal";
    element.innerHTML = "";
    element.style.height = "300px";
    const viewer = window.$3Dmol.createViewer(element, { backgroundColor: "white", backgroundAlpha: 0 });
    const canvas = element.querySelector("canvas"), hint = document.createElement("span");
    for (const [key, value] of Object.entries({ tabindex: 0, role: "application", "aria-roledescription": "3-D view" })) element.setAttribute(key, value);
    element.setAttribute("aria-label", name + ", 3-D view: Enter to start, arrow keys turn, plus and minus zoom, Escape leaves");
    canvas.setAttribute("aria-hidden", "true");
    hint.setAttribute("aria-hidden", "true");
    hint.style.cssText = "position:absolute;right:4px;bottom:2px;font-size:12px;pointer-events:none;opacity:.85;z-index:2";
    element.appendChild(hint);
    let active = false;
    function setActive(now) {
      active = now;
      canvas.style.pointerEvents = now ? "auto" : "none";
      element.style.outline = now ? "2px solid #0072B2" : "";
      hint.textContent = now ? "drag or arrows turn, + − zoom, Esc leaves" : "click to turn";
    }
    element.addEventListener("click", () => setActive(true));
    element.addEventListener("mouseleave", () => setActive(false));
    element.addEventListener("blur", () => setActive(false));
    document.addEventListener("pointerdown", (event) => element.contains(event.target) || setActive(false));
    element.addEventListener("keydown", function (event) {
      const turns = { ArrowLeft: [-10, "y"], ArrowRight: [10, "y"], ArrowUp: [-10, "x"], ArrowDown: [10, "x"] }, zooms = { "+": 1.15, "=": 1.15, "-": 0.87 };
      if (event.key === "Escape") return setActive(false);
      if (!active && (event.key === "Enter" || event.key === " ")) setActive(true);
      else if (active && turns[event.key]) viewer.rotate(...turns[event.key]);
      else if (active && zooms[event.key]) viewer.zoom(zooms[event.key]);
      else return;
      event.preventDefault();
      viewer.render();
    });
    setActive(false);
    return viewer;
  }

  // Black or white, whichever is read on a colour #rrggbb.
  function inkOn(colour) {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
    return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#000000" : "#ffffff";
  }

  // Put atoms with their elements' letters and the edges of the cell into a viewer, in place of what it shows; scene: {xyz, cell, colours}.
  function setScene(viewer, scene) {
    viewer.removeAllModels();
    viewer.removeAllShapes();
    viewer.removeAllLabels();
    if (!scene) return;
    viewer.addModel(scene.xyz, "xyz", { assignBonds: false });
    viewer.setStyle({}, { sphere: { scale: 0.32, colorscheme: { prop: "elem", map: scene.colours } } });
    for (const line of scene.xyz.split("\n").slice(2)) {
      const [element, x, y, z] = line.split(" ");
      const look = { fontSize: 13, fontColor: inkOn(scene.colours[element]), showBackground: false, inFront: true, alignment: "center" };
      viewer.addLabel(element, { position: { x: +x, y: +y, z: +z }, ...look });
    }
    const corner = function (k) {
      const along = (x) => (k & 1) * scene.cell[0][x] + ((k >> 1) & 1) * scene.cell[1][x] + ((k >> 2) & 1) * scene.cell[2][x];
      return { x: along(0), y: along(1), z: along(2) };
    };
    for (let k = 0; k < 8; k++)
      for (const bit of [1, 2, 4])
        if (!(k & bit))
          viewer.addCylinder({ start: corner(k), end: corner(k | bit), radius: 0.03, color: "#808080", fromCap: 1, toCap: 1 });
  }

  // Look from the front, as draw_crystal does, from as far away as the cell needs.
  function turnToFront(viewer, element) {
    viewer.setView([0, 0, 0, 0, 0, 0, 0, 1]);
    viewer.rotate(-90, "vx");
    viewer.rotate(-20, "vy");
    viewer.rotate(10, "vx");
    viewer.zoomTo();
    viewer.zoom(0.95 * Math.min(1, element.clientWidth / element.clientHeight));
  }

  // Crystals beside each other: element id-0 shows scenes[0], ...
  function crystals(id, file, scenes) {
    inSight(byId(id + "-0"), () => with3Dmol(file, function () {
      scenes.forEach(function (scene, i) {
        const element = byId(id + "-" + i), viewer = newViewer(element);
        setScene(viewer, scene);
        turnToFront(viewer, element);
        viewer.render();
      });
    }));
  }

  // One frame at a time, chosen by a slider; the camera stays where the largest cell puts it.
  function slider(id, file, scenes, titles, largest) {
    let viewer = null;
    function show() {
      const i = +byId(id + "-slider").value;
      byId(id + "-text").textContent = titles[i];
      if (!viewer) return;
      setScene(viewer, scenes[i]);
      viewer.render();
    }
    byId(id + "-slider").addEventListener("input", show);
    inSight(byId(id), () => with3Dmol(file, function () {
      viewer = newViewer(byId(id));
      setScene(viewer, scenes[largest]);
      turnToFront(viewer, byId(id));
      show();
    }));
  }

  // A row of crystals at a time, chosen from a list; rows: [[{title, legend, scene, picture}]], scene null where there is nothing to draw.
  function choice(id, file, rows) {
    const viewers = [];
    function show() {
      rows[byId(id).value].forEach(function (crystal, j) {
        const element = byId(id + "-" + j), viewer = viewers[j];
        byId(id + "-" + j + "-title").textContent = crystal.title;
        byId(id + "-" + j + "-legend").innerHTML = crystal.legend;
        if (viewer) {
          setScene(viewer, crystal.scene);
          if (crystal.scene) turnToFront(viewer, element);
          viewer.render();
        } else {
          const image = element.querySelector("img");
          image.src = crystal.picture;
          image.style.visibility = crystal.picture ? "visible" : "hidden";
        }
      });
    }
    byId(id).addEventListener("change", show);
    inSight(byId(id), () => with3Dmol(file, function () {
      rows[0].forEach(function (_, j) {
        if (rows.some((row) => row[j].scene)) viewers[j] = newViewer(byId(id + "-" + j));
      });
      show();
    }));
  }

  // Pictures one after the other, by a slider or played with a pause (ms) after each.
  function pictures(id, images, titles, pause) {
    const input = byId(id + "-slider"), button = byId(id + "-play");
    let timer = null;
    function show() {
      byId(id).src = "data:image/png;base64," + images[input.value];
      byId(id).alt = titles[input.value];
      byId(id + "-text").textContent = titles[input.value];
    }
    function stop() {
      clearInterval(timer);
      timer = null;
      button.textContent = "play";
    }
    function next() {
      input.value = +input.value + 1;
      show();
      if (+input.value === images.length - 1) stop();
    }
    button.addEventListener("click", function () {
      if (timer) return stop();
      if (+input.value === images.length - 1) input.value = -1;
      button.textContent = "stop";
      timer = setInterval(next, pause);
    });
    input.addEventListener("input", function () {
      stop();
      show();
    });
  }

  // Points [x, y, text] that say what they are under the pointer; colours: name of a colouring to a colour for each point.
  function points(id, dots, colours) {
    const choice = byId(id + "-colour");
    let shown = null;
    const circles = dots.map(function (dot, i) {
      const circle = document.createElementNS(byId(id).namespaceURI, "circle");
      for (const [name, value] of Object.entries({ cx: dot[0], cy: dot[1], r: 3.2, "data-i": i })) circle.setAttribute(name, value);
      byId(id).appendChild(circle);
      return circle;
    });
    function paint() {
      circles.forEach((circle, i) => circle.setAttribute("fill", colours[choice.value][i]));
    }
    function tell(i) {
      if (shown) {
        shown.removeAttribute("stroke");
        shown.setAttribute("r", 3.2);
      }
      shown = circles[i];
      shown.setAttribute("stroke", "black");
      shown.setAttribute("r", 5.5);
      byId(id + "-text").textContent = dots[i][2];
    }
    byId(id).addEventListener("mouseover", function (event) {
      const i = event.target.getAttribute("data-i");
      if (i !== null) tell(+i);
    });
    // with the keys: from point to point, from left to right
    const order = dots.map((_, i) => i).sort((a, b) => dots[a][0] - dots[b][0]);
    byId(id).addEventListener("keydown", function (event) {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const at = shown ? order.indexOf(circles.indexOf(shown)) : -1;
      tell(order[(at + step + order.length) % order.length]);
      event.preventDefault();
    });
    choice.addEventListener("change", paint);
    paint();
  }

  return { crystals, slider, choice, pictures, points };
})();
