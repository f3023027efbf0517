"""dgd-bench: filter grafting and knowledge distillation, from the data to the table.

    snakemake --cores 2                                        the default benchmark, config/quick.yaml
    snakemake --cores 8 --configfile config/cifar100.yaml      another one
    snakemake -n | --rulegraph | --report report.zip           what would run | the DAG | a report on a finished run

prepare -> teacher (a cell) -> train (a cell) -> collect -> tabulate, plot -> report -> manifest
                            -> generate (training images, by cells, if rows of the config ask for them) -> train
                                              -> prune (a cell, if the config asks for it) -> tabulate, plot
"""

from snakemake.utils import min_version

# 9.19 is the first that reads profiles by today's rules and compares small inputs by checksum.
min_version("9.19")

# Not always loaded: Snakemake would merge --configfile over it, and keys of one benchmark would leak into another.
if not workflow.overwrite_configfiles:

    configfile: "config/quick.yaml"


report: "pipeline/report/workflow.rst"


include: "pipeline/rules/common.smk"


# GPUs are those of one machine: the limit in profiles/default holds there, and not for all machines of a cluster together.
resource_scopes:
    gpu="local",


localrules:
    all,


rule all:
    input:
        PRUNED,
        f"{BENCHMARK}/cells.csv",
        f"{BENCHMARK}/logs/reading/{READING[:12]}",
        f"{BENCHMARK}/tables",
        f"{BENCHMARK}/figures",
        f"{BENCHMARK}/report.html",
        f"{BENCHMARK}/{MANIFEST}",


# The cells of a frozen benchmark are files like any other: nothing here would make them.
if not FROZEN:

    include: "pipeline/rules/prepare.smk"
    include: "pipeline/rules/generate.smk"
    include: "pipeline/rules/train.smk"
    include: "pipeline/rules/prune.smk"


include: "pipeline/rules/tables.smk"
