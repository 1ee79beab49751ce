"""The engine of TensorFlow: tapes, graphs and strategies."""
