"""What a model predicts (`predictions`), the metrics and judges that read it, and the figures that come of it.

A new metric is a file in `metrics`, a new judge one in `judges`. Belongs elsewhere: training, attacks (`auditing`), and how
figures are shown (`report`).
"""
