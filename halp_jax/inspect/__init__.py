"""Looking at a trained run: what its hallucinated positives are, where they land, how it got there.

    anchors     a run opened once; the walk, the positives and the nearest real clips of an anchor
    classes     whether positives keep their class, measured
    history     what moved over training
    plots, plots3d, maps, strips, graph_plots    the pictures; page says how they look and saves them

Functions take what `anchors.open_run` returns and give arrays or figures; notebooks only call them.
"""
