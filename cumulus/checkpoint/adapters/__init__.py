"""Checkpoints of training frameworks: one module each, which imports its framework when it is used.

pytorch        model, optimizer, random states and the loader's position; DCP for sharded models
lightning      a callback
transformers   a callback for Hugging Face's Trainer
jax            pytrees, and Orbax for several hosts
keras          a callback, also for TensorFlow's Keras
sklearn        partial_fit and warm starts
xgboost        a callback, and `train`
lightgbm       a callback, and `train`
"""
