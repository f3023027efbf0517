"""The workflow side: rules and their scripts. Only this package knows Snakemake; `dgd` never imports it."""
