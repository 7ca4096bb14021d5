"""One page of finished runs: `jaxdepth report`.

reading     finished runs as they are shown, each checked against its digests
origin      what a run is of, and the command that makes it again
strips      the verdict of every exit, by the judge and corrected by labels
rules       the verdict of every rule of a run under policies
sentences   the verdict in words, at any tolerated share
certified   what the certificate beside a run says of it
compared    models beside each other, paired by prompt
charts/     interactive charts of the tables; the same in notebooks
cells       the outcome of every answer, as a grid
texts       the answers, made harmless and compressed
page        all of that as one HTML file
markdown    the first part of it for a pull request or a model card
"""
