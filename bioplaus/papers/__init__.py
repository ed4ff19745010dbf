"""What belongs to one paper: tables and figures only its notebooks draw, claims it makes, files it keeps.

`cerebellum*` and `caption_scores` serve ccdni; `hemisphere_*` serve bilateral; `mosaics`, `selection` and `synapses`
serve hebbian; `comparison` and `dynamics` serve corinfomax.
"""
