"""What an experiment is, in plain modules: one noun or verb each.

Reading order, and the direction of imports (an arrow never points back; tests/test_arrows.py draws them):

    __main__    compose the configuration, run or sweep, print one honest line
    run, remarks                 the whole experiment on one screen; what a reader of its number must know
    sweep       many runs at once: Hydra's multirun;  wanted, composer, memory  (which runs, composed together, remembered)
                state, standing, make  (what became of runs; of the wanted ones; one of them)
                on which machine: workers, slurm, jobs  (processes here; job arrays; Slurm's queue)
                launch, forecast, trial, status  (what a table lacks, launched; its cost, as stored or tried; how it stands)
                cancel  (waiting jobs that it no longer names)
                search, study  (values searched with equal trials, as runs; what is searched and proposed)
    pack, joint     runs over one backbone: which, and what cannot be; their forward and backward passes as one
    mirror, trackers    W&B and others, from a process that follows the run; one that fails stops no other
    compose, config, schema      Hydra's errors in one message; the schema
    preview     what `--cfg job` cannot compose: sizes that a budget solves
    allowed, shell, ranges       what a configuration may make Hydra do, and a cluster's shell; numbers within bounds
    recipe, level, rows          the papers' hyper-parameters; their sizes; both as rows of TOML
    task, files, dataset         columns, labels, splits; from files in the official layout; from the hub
    columns, shapes, instructions    rows checked, flattened and put into prompts
    several, mixture             several tasks in one run: as configuration; drawn, with a head or masks each
    splits, answers              the papers' special splits; generated answers read back as labels
    data, tokens                 text -> batches; tokenised once, kept on disk
    metrics, scores, spans       in-tree `evaluate` metrics; their arithmetic; answers as SQuAD compares them
    model, architecture, targets    backbone and method; what may be changed in it; what peft does not check of its own
    directory, snapshot          where the backbone is; its files from the hub
    budget                       the parameter budget
    quantization, packed, codes  the backbone in 4 or 8 bits, and back; its layers; what the codes are, written out
    preflight, probe, checks, fits, frozen    before the first step: is this what was asked for; the backbone proven unchanged
    train       the training, over accelerate
    loop, update, distributed    its stages and evaluations; one update; several processes for one run
    execution, features, kept    activation checkpointing, compilation; frozen features: whether; where they are kept
    feed, schedule, optimizer, losses, monitor    its batches, rates, AdamW, objective, learning curve
    predict, submission          a finished run on rows with hidden labels; the benchmarks' files
    evaluate, cost, latency      scores from logits or generated text; seconds, tokens, bytes; seconds of one row
    work, estimate               what a step does and holds, without data; memory and disk before a run
    identity, provenance         what makes two runs the same run; commit, versions, the hash of what makes numbers
    record, claim, publish, atomic    the store: read, own, finish, write
    checkpoint, interrupt    what an interrupted run goes on from; the signals that interrupt it
    index, skim, bundle          what tables need of many records, in one file derived from them; of one; runs alike
    device, progress, paths, errors   CPU or GPU; what a person sees; where files are; what a user can get wrong
    table       records -> a table:  select, cells, labels, grid, layout, costs, output  (choose, gather, name, arrange,
                write out); versus, examples (our rows against each other, paired over seeds and examples)
                a published one:  paper, published, doubts (as data, read, what does not follow from its own numbers)
                match, verdict, compare, fill, twin  (our runs for its cells, judged, beside it; commands; written out)
    report      the same as a page:  sheet, runsheet, page  (content, one cell's runs, HTML)
                drawing, figures, traces, ranking  (SVG and PNG; of tables; of runs while they train; ranks over tasks)
    canary      tiny pinned runs with expected scores: has the environment moved, and by more than seeds do
    stats, itemwise              intervals and tests over seeds; over examples
    selection   what choosing a checkpoint on the reported rows adds, from what each evaluation got right

`methods` knows torch, transformers and peft, never this package; this package imports of it `methods.hooks` (and
`methods.attention`, `methods.lowrank`, `methods.saved`) alone. Nothing here imports torch, peft, evaluate or wandb before
a run has to be made.
"""
