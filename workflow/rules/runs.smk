# A run in stages, one `nesf` command each. What a killed training has saved is not an output, so it stays, and the next attempt goes on from it.
wildcard_constraints:
    dataset="[^/]+",
    method="[^/]+",
    preset="[^/]+",
    run=r"(seed|fold)-\d+",
    split="train|val|test",


RUN = RESULTS / "{dataset}" / "{method}" / "{preset}" / "{run}"


rule train:
    input:
        training_inputs,
    output:
        here(RUN / "model.safetensors"),
        here(RUN / "model.json"),
        here(RUN / "log.csv"),
    wildcard_constraints:
        method=TRAINED,
    params:
        options=lambda wildcards: shlex.join(planned(wildcards).options()),
        out=str(RUN),
    log:
        here(BUILD / "logs" / "{dataset}-{method}-{preset}-{run}-train.log"),
    threads: 1
    resources:
        mem_mb=8000,
        runtime=12 * 60,
    shell:
        "OMP_NUM_THREADS={threads} nesf train {wildcards.dataset} {params.options} --out {params.out} --data {DATA} --device {DEVICE}"
        " --resume-if-possible --replace 2> {log} || {{ tail -n 3 {log} >&2; exit 1; }}"


rule reconstruct:
    input:
        decoding_inputs,
    output:
        here(RUN / "reconstruction" / "{split}" / "summary.json"),
    wildcard_constraints:
        method=TRAINED,
    params:
        weights=lambda wildcards: str(RESULTS / planned(wildcards).weights.name),
        options=lambda wildcards: shlex.join(decode_options(planned(wildcards))),
    log:
        here(BUILD / "logs" / "{dataset}-{method}-{preset}-{run}-reconstruct-{split}.log"),
    priority: 1 # a trained run is finished before the next one is begun
    threads: 1
    resources:
        mem_mb=4000,
        runtime=2 * 60,
    shell:
        "OMP_NUM_THREADS={threads} nesf reconstruct {params.weights} {params.options} --split {wildcards.split} --data {DATA} --device {DEVICE} --replace"
        " 2> {log} || {{ tail -n 3 {log} >&2; exit 1; }}"


rule evaluate:
    input:
        scoring_inputs,
    output:
        here(RUN / "metrics.json"),
        here(RUN / "materials.csv"),
    wildcard_constraints:
        method=TRAINED,
    params:
        out=str(RUN),
        splits=lambda wildcards: " ".join(f"--split {split}" for split in planned(wildcards).splits),
    log:
        here(BUILD / "logs" / "{dataset}-{method}-{preset}-{run}-evaluate.log"),
    priority: 1 # a trained run is finished before the next one is begun
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        "OMP_NUM_THREADS={threads} nesf evaluate {params.out} {params.splits} --data {DATA} --replace 2> {log} || {{ tail -n 3 {log} >&2; exit 1; }}"


# What the figures and tables of the paper's other sections are drawn from, recorded beside the run whose model they used.
rule analyse:
    input:
        analysis_inputs,
    output:
        here(RUN / "analysis" / "{analysis}" / "analysis.json"),
    wildcard_constraints:
        method=TRAINED,
        analysis="[^/]+",
    params:
        run=str(RUN),
        options=lambda wildcards, output: shlex.join(ANALYSES[str(Path(output[0]).parent.relative_to(RESULTS))].options()),
    log:
        here(BUILD / "logs" / "{dataset}-{method}-{preset}-{run}-analyse-{analysis}.log"),
    threads: 1
    resources:
        mem_mb=4000,
        runtime=2 * 60,
    shell:
        "OMP_NUM_THREADS={threads} nesf analyse {wildcards.analysis} {params.run} {params.options} --data {DATA} --device {DEVICE} --replace"
        " 2> {log} || {{ tail -n 3 {log} >&2; exit 1; }}"


# Trivial predictors and the oracles: nothing to train.
rule predict:
    input:
        training_inputs,
    output:
        here(RUN / "metrics.json"),
        here(RUN / "materials.csv"),
    wildcard_constraints:
        method=PREDICTED,
    params:
        options=lambda wildcards: shlex.join(planned(wildcards).options()),
        splits=lambda wildcards: " ".join(f"--split {split}" for split in planned(wildcards).splits),
        out=str(RUN),
    log:
        here(BUILD / "logs" / "{dataset}-{method}-{preset}-{run}-predict.log"),
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        "OMP_NUM_THREADS={threads} nesf run {wildcards.dataset} {params.options} {params.splits} --out {params.out} --data {DATA} --replace"
        " 2> {log} || {{ tail -n 3 {log} >&2; exit 1; }}"
