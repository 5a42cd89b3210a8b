"""What is asked of a model. A name below is what a preset writes; the class is imported when used."""

CATALOGUE = {
    "needle": "tasks.needle:Needle",
    "needle-sf": "tasks.needle_grid:NeedleGrid",
    "key_value": "tasks.key_value:KeyValue",
    "passkey": "tasks.passkey:Passkey",
    "perplexity": "tasks.perplexity:Perplexity",
    "ruler-nvidia": "tasks.ruler.suite:RulerNvidia",
    "ruler-fixed": "tasks.ruler.suite:RulerFixed",
    "longbench-thudm": "tasks.longbench.v1:LongBench",
    "longbench-v2": "tasks.longbench.v2:LongBenchV2",
    "lm_eval": "tasks.short.suite:LmEval",
    "short": "tasks.short.lists:Short",
    "short-small": "tasks.short.lists:ShortSmall",
}
