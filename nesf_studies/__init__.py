"""Studies of the book: numbers, figure and table of one topic a file.

The package builds on `nesf`; `nesf` never imports it. Each analysis is a module with a frozen
dataclass `Parameters` and `analyse(model, dataset, parameters, *, progress)`, which returns data
frames and crystals by name. `nesf_studies.record` writes them beside the run whose model was
analysed.
"""

# name and what it is, for the command line; this module loads nothing
ANALYSES = {
    "examples": "the best, the median and the worst reconstruction of a split (Figure 3)",
    "interpolation": "crystals on the way from one to another (Figures 5, 6, S1-S4)",
    "latent-space": "the latent vectors in two dimensions, and what their neighbours share (Figure 7)",
    "atlas": "all crystals on a plane, for the explorer of the page with the live model",
    "sensitivity": "the seven hyperparameters of the reconstruction (Figures S5, S6)",
    "decoding": "choices of the decoding that paper and official code make otherwise",
    "sampling": "new crystals from densities of latent vectors, and from trivial generators",
    "sample-quality": "those crystals by the field's metrics: validity, coverage, novelty, symmetry",
    "sample-energies": "those crystals by CHGNet: forces, energies, relaxations",
    "design": "crystals for a target, beside random search and training crystals",
    "path-energies": "CHGNet's energy along the paths of `interpolation`, beside linear mixing",
    "symmetry": "space groups of reconstructions, with and without symmetrising",
    "domain": "how well training domain and certificate tell failures, also on other datasets",
    "slots": "a slot decoder trained on the same latent vectors, against the fields",
    "properties": "properties predicted from latent vectors (Supplementary Note 4)",
}
