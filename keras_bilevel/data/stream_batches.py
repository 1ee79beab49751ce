def stream_batches(*args, **kwargs):
    raise NotImplementedError
