# The aggregate: made, never edited. An edited or damaged file under results/ disagrees with SHA256SUMS, and the table is made again.
rule aggregate:
    input:
        table_inputs,
    output:
        here(RESULTS / "table1.csv"),
        here(RESULTS / "SHA256SUMS"),
    params:
        results=RESULTS,
    resources:
        mem_mb=2000,
        runtime=10,
    shell:
        "nesf aggregate {params.results} --replace"


rule draw:
    input:
        here(RESULTS / "table1.csv"),
    output:
        [here(BUILD / "figures" / f"table1{suffix}") for suffix in (".svg", ".png", ".csv")],
    params:
        results=RESULTS,
        folder=BUILD / "figures",
    resources:
        mem_mb=2000,
        runtime=10,
    shell:
        "nesf aggregate {params.results} --figures {params.folder} --replace"
