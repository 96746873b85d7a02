"""What an experiment is, in plain modules: one noun or verb each.

Reading order, and the direction of imports (an arrow never points back; a test draws them):

    __main__   compose the configuration, run or sweep, print one honest line
    run        run(config) -> Record: the whole experiment on one screen
    sweep      many runs at once: Hydra's multirun on local workers
    table      records -> rows -> Markdown                               stats   intervals, seeded, NumPy and SciPy
    task, data      columns, labels, splits; text -> batches             metrics  in-tree `evaluate` metrics
    model, budget   backbone, method attached, parameters counted; the parameter budget
    train, evaluate the loop, over accelerate; scores from logits or generated text
    cost            seconds, tokens, peak and stored bytes
    identity, record, claim, atomic   what makes two runs the same run; the store of records
    provenance      commit, versions, device; the hash of the code that makes numbers
    compose, recipe, config           Hydra's errors in one message; the papers' hyper-parameters; the schema
    paths, errors   where the package keeps its files; what a user can get wrong

`methods` knows torch, transformers and peft, never this package; this package imports of it `methods.hooks` (and
`methods.attention`) alone. Nothing here imports torch, peft, evaluate or wandb before a run has to be made.
"""
