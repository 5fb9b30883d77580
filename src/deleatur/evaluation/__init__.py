"""What a model predicts (`predictions`), the metrics and judges that read it, and the figures made of them.

Nothing here trains a model.
"""
