"""The workflow side: rules, their scripts, the config schema. Only this package knows Snakemake; `dgd` never imports it."""
