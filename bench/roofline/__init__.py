"""What a training step costs at least on a GPU that need not be there: its kernels, their
operations and bytes, and the time that its data sheet gives for those.

    peaks     rates of GPUs by their data sheets
    kernels   the kernels of a step, each with its cost
    model     what a Hopper GPU should take beyond the bounds
    table     lines of kernels with bounds, and the printed table
    step      the step of a recipe
    page      the tables of docs/roofline.md

`python -m bench.roofline RECIPE` (or `fastgan explain RECIPE --roofline`) prints a step. Source of
bounds: Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785.
"""
