"""The page of `halp_jax.watch`: runs side by side while they train.

files     what runs write, read again and again without being in anybody's way
charts    of each run: its row of the table and its curves, as plain data
sphere    the newest sphere, drawn by a process of its own
page      layout, callbacks (Dash) and style
"""
