"""Tuples of one group from a stream, and what its rare groups become."""

import keras
import tensorflow as tf

from keras_bilevel.data.rare import report_rare


class RareWindows:
    """Cuts a stream into windows of one group each.

    The end of a pass leaves a partial window of almost every group. It is
    dropped, unless no whole window of the group was seen before: then the
    group is rare.

    Args:
        size: Integer, examples of a whole window.
        rare: String, see `stratified_batches`.
        silent: Boolean, whether the rare groups were reported already.
            Defaults to `False`.
    """

    def __init__(self, size, rare, silent=False):
        self._size = size
        self._rare = rare
        self._silent = silent
        self._reported = set()

    def cut(self, examples, group_of):
        """The whole windows of one pass.

        Args:
            examples: A `tf.data.Dataset` of `(position, example)`.
            group_of: Function of the parts of an example to an int64 scalar.

        Returns:
            A `tf.data.Dataset` of `(group, positions, members)` with leaves
            of shape `(size, ...)`.
        """

        def mark(seen, window):
            positions, members = window
            first = keras.tree.map_structure(lambda leaf: leaf[0], members)
            group = group_of(*first)
            seen, keep = self._mark(seen, group, tf.size(positions))
            return seen, (keep, group, positions, members)

        windows = examples.group_by_window(
            key_func=lambda position, example: group_of(*example),
            reduce_func=lambda group, window: window.batch(self._size),
            window_size=self._size,
        )
        # The state of the scan grows: the groups with a whole window so far.
        marked = windows.scan(tf.zeros([0], "int64"), mark)
        kept = marked.filter(lambda keep, *window: keep)
        return kept.map(
            lambda keep, group, *members: (group, *self._repeat(members))
        )

    def _mark(self, seen, group, found):
        whole = found == self._size
        first = tf.reduce_all(seen != group)
        keep = tf.cond(
            first & ~whole,
            lambda: tf.ensure_shape(
                tf.numpy_function(self._keep_rare, [group, found], "bool"), []
            ),
            lambda: whole,
        )
        seen = tf.cond(
            first & whole,
            lambda: tf.concat([seen, [group]], axis=0),
            lambda: seen,
        )
        return seen, keep

    def _keep_rare(self, group, found):
        if not self._silent and int(group) not in self._reported:
            self._reported.add(int(group))
            report_rare([group], [found], self._size, self._rare)
        return self._rare == "repeat"

    def _repeat(self, members):
        def repeat(leaf):
            rows = tf.range(self._size) % tf.shape(leaf)[0]
            return tf.gather(leaf, rows)

        return keras.tree.map_structure(repeat, members)
