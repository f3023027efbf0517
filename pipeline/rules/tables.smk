"""
This part of the workflow reads the cells and writes tables, figures and the report. It trains nothing.

REQUIRED INPUTS:

    <results>/<cell>/metrics.json, history.csv, filters.npz, provenance.json    of every cell of the benchmark
    papers/*.yaml                                                               published numbers

OUTPUTS, in <results>/<benchmark>/:

    cells.csv           a row a cell and network
    logs/reading/*      names the code and the config that read the cells: it is missing, and all is read again, where they changed
    tables/             results, methods, filters, claims, controls and density, and what only some benchmarks have: subnets, retrieval,
                        generated; as Markdown, CSV and LaTeX
    figures/            learning curves, filter-level evidence and pruning curves, as SVG, PDF and PNG
    report.html         all of it on one page
    benchmark.yaml      the checked config, by which `dgd-bench verify` makes the tables again
    SHA256SUMS          the hash of each file but logs, as sha256sum writes it; the last to be written
"""

# Part of the workflow, also where data and results lie in a remote store.
PAPERS = [
    local(os.path.relpath(plugins.PAPERS.get(name, f"papers/{name}.yaml")))
    for name in CONFIG["papers"]
]
# Paths and not `rules.collect.output`: Snakemake then hashes all inputs of a rule for each of them, minutes for 10,000 cells.
CELLS_CSV = f"{BENCHMARK}/cells.csv"
FIGURES = f"{BENCHMARK}/figures"
TABLES = f"{BENCHMARK}/tables"
READ = f"{BENCHMARK}/logs/reading/{READING[:12]}"


rule collect:
    """Collecting every cell's numbers in one tidy table."""
    input:
        expand(
            f"{RESULTS}/{{cell}}/{{file}}",
            cell=CELLS,
            file=("metrics.json", "filters.npz"),
        ),
    output:
        cells=CELLS_CSV,
        asked=f"{BENCHMARK}/{dgd_config.ASKED}",
        read=touch(READ),
    log:
        f"{BENCHMARK}/logs/collect.log",
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        config=RESOLVED,
        before=lambda wildcards, output: output.read.removesuffix(READING[:12]),
    message:
        "collecting {BENCHMARK}"
    shell:
        "rm -f {params.before:q}*; "
        "DGD_NETWORKS=no python -m pipeline.collect --config <(printf %s {params.config:q}) --out {output.cells:q} 2>&1 | tee {log:q}"


rule tabulate:
    """Setting our numbers beside the papers', and their claims beside our cells."""
    input:
        # Read for the claims about single epochs and named layers, and for retrieval.
        expand(
            f"{RESULTS}/{{cell}}/{{file}}",
            cell=CELLS,
            file=("history.csv", "filters.npz", "metrics.json"),
        ),
        # Read for how images were generated.
        [
            f"{RESULTS}/{path}/provenance.json"
            for path, cell in CELLS.items()
            if cell.generated
        ],
        PRUNED,
        cells=CELLS_CSV,
        papers=PAPERS,
        evidence=local(os.path.relpath(shipped.EVIDENCE)),
    output:
        report(
            directory(TABLES),
            patterns=["{table}.md", "{table}.csv"],
            caption="../report/tables.rst",
            category="Tables",
            labels={"table": "{table}"},
        ),
    log:
        f"{BENCHMARK}/logs/tabulate.log",
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        report=CONFIG.get("report", "first"),
        controls=json.dumps(CONFIG["controls"]),
    message:
        "tabulating {BENCHMARK}"
    shell:
        "DGD_NETWORKS=no python -m pipeline.tabulate --cells {input.cells:q} --papers {input.papers:q} --out {output:q} "
        "--report {params.report} --controls {params.controls:q} "
        "2>&1 | tee {log:q}"


rule plot:
    """Plotting learning curves, filters and pruning curves."""
    input:
        expand(
            f"{RESULTS}/{{cell}}/{{file}}",
            cell=CELLS,
            file=("metrics.json", "history.csv", "filters.npz"),
        ),
        PRUNED,
        # The images that generators make.
        [
            f"{RESULTS}/{path}/predictions.npz"
            for path, cell in CELLS.items()
            if cell.task in MAKERS
        ],
        cells=CELLS_CSV,
    output:
        report(
            directory(FIGURES),
            patterns=["{figure}.svg"],
            caption="../report/figures.rst",
            category="Figures",
            labels={"figure": "{figure}"},
        ),
    log:
        f"{BENCHMARK}/logs/plot.log",
    conda:
        "../../envs/tables.yaml"
    threads: 4
    resources:
        mem_mb=2000,
    params:
        folder=lambda wildcards, input: os.path.dirname(str(input.cells)),
    message:
        "plotting {BENCHMARK}"
    shell:
        "DGD_NETWORKS=no python -m pipeline.plot --folder {params.folder:q} --out {output:q} --processes {threads} 2>&1 | tee {log:q}"


rule report:
    """Putting tables, charts, config and provenance on one page."""
    input:
        expand(
            f"{RESULTS}/{{cell}}/{{file}}",
            cell=CELLS,
            file=("metrics.json", "provenance.json", "history.csv", "filters.npz"),
        ),
        PRUNED,
        asked=f"{BENCHMARK}/{dgd_config.ASKED}",
        cells=CELLS_CSV,
        tables=TABLES,
        figures=FIGURES,
    output:
        report(
            f"{BENCHMARK}/report.html",
            caption="../report/report.rst",
            category="Report",
        ),
    log:
        f"{BENCHMARK}/logs/report.log",
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        folder=lambda wildcards, input: os.path.dirname(str(input.cells)),
    message:
        "writing {output}"
    shell:
        "DGD_NETWORKS=no python -m pipeline.report --folder {params.folder:q} --out {output:q} 2>&1 | tee {log:q}"


rule manifest:
    """Writing down the hash of each file."""
    input:
        PRUNED,
        CELLS_CSV,
        TABLES,
        FIGURES,
        report=f"{BENCHMARK}/report.html",
    output:
        f"{BENCHMARK}/{MANIFEST}",
    log:
        f"{BENCHMARK}/logs/manifest.log",
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        folder=lambda wildcards, input: os.path.dirname(input.report),
    message:
        "writing {output}"
    shell:
        "DGD_NETWORKS=no python -m pipeline.manifest --folder {params.folder:q} 2>&1 | tee {log:q}"
