# Packed datasets.
IMPORTED = "|".join(map(re.escape, config["imports"])) or "^$"


rule fetch:
    output:
        here(DATA / "{dataset}" / "dataset.json"),
    wildcard_constraints:
        dataset="lcs6|icsg3d|icsg3d-as-released",
    shell:
        "nesf data fetch {wildcards.dataset} --data {DATA} {MIRROR}"


rule fetch_fold:
    output:
        here(DATA / "{dataset}" / "fold-{fold}" / "dataset.json"),
    wildcard_constraints:
        dataset="ybco",
        fold=r"\d+",
    shell:
        "nesf data fetch {wildcards.dataset} --fold {wildcards.fold} --data {DATA} {MIRROR}"


rule import_own:
    input:
        lambda wildcards: ancient(config["imports"][wildcards.dataset]),
    output:
        here(DATA / "{dataset}" / "dataset.json"),
    wildcard_constraints:
        dataset=IMPORTED,
    shell:
        "nesf data import {input} --name {wildcards.dataset} --data {DATA} --replace"
