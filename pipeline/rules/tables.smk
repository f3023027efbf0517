"""
This part of the workflow reads the cells and writes tables, figures and the report. It trains nothing.

REQUIRED INPUTS:

    <results>/<cell>/metrics.json, history.csv, filters.npz, provenance.json    of every cell of the benchmark
    papers/*.yaml                                                               published numbers

OUTPUTS, in <results>/<benchmark>/:

    cells.csv           a row a cell and network
    tables/             results, methods, filters, claims, controls and density, as Markdown, CSV and LaTeX
    figures/            learning curves, filter-level evidence and pruning curves, as SVG and PNG
    report.html         all of it on one page
"""

# Part of the workflow, also where data and results lie in a remote store.
PAPERS = [local(f"papers/{name}.yaml") for name in CONFIG["papers"]]
# Paths and not `rules.collect.output`: Snakemake then hashes all inputs of a rule for each of them, minutes for 10,000 cells.
CELLS_CSV = f"{BENCHMARK}/cells.csv"
FIGURES = f"{BENCHMARK}/figures"


rule collect:
    """Collecting every cell's numbers in one tidy table."""
    input:
        expand(
            f"{RESULTS}/{{cell}}/{{file}}",
            cell=CELLS,
            file=("metrics.json", "filters.npz"),
        ),
    output:
        CELLS_CSV,
    log:
        f"{BENCHMARK}/logs/collect.log",
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        config=RESOLVED,
        src=fingerprint("dgd/read", "dgd/cell.py", "dgd/task.py", "pipeline/collect.py"),
    message:
        "collecting {BENCHMARK}"
    shell:
        "DGD_NETWORKS=no python -m pipeline.collect --config <(printf %s {params.config:q}) --out {output:q} 2>&1 | tee {log:q}"


rule tabulate:
    """Setting our numbers beside the papers', and their claims beside our cells."""
    input:
        # Read for the claims about single epochs and named layers.
        expand(
            f"{RESULTS}/{{cell}}/{{file}}",
            cell=CELLS,
            file=("history.csv", "filters.npz"),
        ),
        PRUNED,
        cells=CELLS_CSV,
        papers=PAPERS,
    output:
        report(
            f"{BENCHMARK}/tables/results.md",
            caption="../report/results.rst",
            category="Tables",
            labels={"table": "results", "format": "Markdown"},
        ),
        report(
            f"{BENCHMARK}/tables/results.csv",
            caption="../report/results.rst",
            category="Tables",
            labels={"table": "results", "format": "CSV"},
        ),
        f"{BENCHMARK}/tables/results.tex",
        report(
            f"{BENCHMARK}/tables/methods.md",
            caption="../report/methods.rst",
            category="Tables",
            labels={"table": "methods", "format": "Markdown"},
        ),
        report(
            f"{BENCHMARK}/tables/methods.csv",
            caption="../report/methods.rst",
            category="Tables",
            labels={"table": "methods", "format": "CSV"},
        ),
        f"{BENCHMARK}/tables/methods.tex",
        report(
            f"{BENCHMARK}/tables/filters.md",
            caption="../report/filters.rst",
            category="Tables",
            labels={"table": "filters", "format": "Markdown"},
        ),
        report(
            f"{BENCHMARK}/tables/filters.csv",
            caption="../report/filters.rst",
            category="Tables",
            labels={"table": "filters", "format": "CSV"},
        ),
        f"{BENCHMARK}/tables/filters.tex",
        report(
            f"{BENCHMARK}/tables/claims.md",
            caption="../report/claims.rst",
            category="Tables",
            labels={"table": "claims", "format": "Markdown"},
        ),
        report(
            f"{BENCHMARK}/tables/claims.csv",
            caption="../report/claims.rst",
            category="Tables",
            labels={"table": "claims", "format": "CSV"},
        ),
        f"{BENCHMARK}/tables/claims.tex",
        report(
            f"{BENCHMARK}/tables/controls.md",
            caption="../report/controls.rst",
            category="Tables",
            labels={"table": "controls", "format": "Markdown"},
        ),
        report(
            f"{BENCHMARK}/tables/controls.csv",
            caption="../report/controls.rst",
            category="Tables",
            labels={"table": "controls", "format": "CSV"},
        ),
        f"{BENCHMARK}/tables/controls.tex",
        report(
            f"{BENCHMARK}/tables/density.md",
            caption="../report/density.rst",
            category="Tables",
            labels={"table": "density", "format": "Markdown"},
        ),
        report(
            f"{BENCHMARK}/tables/density.csv",
            caption="../report/density.rst",
            category="Tables",
            labels={"table": "density", "format": "CSV"},
        ),
        f"{BENCHMARK}/tables/density.tex",
    log:
        f"{BENCHMARK}/logs/tabulate.log",
    conda:
        "../../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        out=lambda wildcards, output: os.path.dirname(output[0]),
        report=CONFIG.get("report", "first"),
        controls=json.dumps(CONFIG["controls"]),
        src=fingerprint(
            "dgd/read",
            "dgd/cell.py",
            "dgd/task.py",
            "dgd/methods.py",
            "pipeline/tabulate.py",
        ),
    message:
        "tabulating {BENCHMARK}"
    shell:
        "DGD_NETWORKS=no python -m pipeline.tabulate --cells {input.cells:q} --papers {input.papers:q} --out {params.out:q} "
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
        src=fingerprint(
            "dgd/read", "dgd/task.py", "pipeline/plot.py"
        ),
    message:
        "plotting {BENCHMARK}"
    shell:
        "DGD_NETWORKS=no python -m pipeline.plot --folder {params.folder:q} --out {output:q} --processes {threads} 2>&1 | tee {log:q}"


rule report:
    """Putting tables, figures, config and provenance on one page."""
    input:
        expand(
            f"{RESULTS}/{{cell}}/{{file}}",
            cell=CELLS,
            file=("metrics.json", "provenance.json"),
        ),
        tables=expand(f"{BENCHMARK}/tables/{{name}}.md", name=TABLES),
        claims=f"{BENCHMARK}/tables/claims.csv",
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
        mem_mb=1000,
    params:
        config=RESOLVED,
        src=fingerprint(
            "dgd/read", "pipeline/report.py", "pipeline/report/page.html"
        ),
    message:
        "writing {output}"
    shell:
        "DGD_NETWORKS=no python -m pipeline.report --config <(printf %s {params.config:q}) --out {output:q} 2>&1 | tee {log:q}"
