"""What a training step costs at least: its kernels, their operations and bytes, and the time that a
device needs for those, from its data sheet or from what it was measured to reach.

    peaks     rates of GPUs by their data sheets
    kernels   the kernels of a step, each with its cost and a call that runs it
    table     lines of kernels with bounds and measured times, and the printed table
    step      the step of a recipe
    page      the tables of docs/roofline.md

`python -m bench.roofline RECIPE` (or `fastgan explain RECIPE --roofline`) prints a step. Source of
the model: Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785.
"""
