"""Rare groups of a stream, which only its end reveals."""

import keras
import tensorflow as tf

from keras_bilevel.data.rare import report_rare


class RareWindows:
    """Makes whole tuples of the windows of one pass over a stream.

    `group_by_window` gives the leftovers of every group at the end. They are
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

    def fill(self, windows):
        """A dataset of `(group, members)` with whole windows only.

        Args:
            windows: A `tf.data.Dataset` of `(group, members)`, leaves of the
                members being of shape `(size or fewer, ...)`.
        """
        # The state of the scan grows: the groups of which a whole was seen.
        marked = windows.scan(tf.zeros([0], "int64"), self._mark)
        kept = marked.filter(lambda keep, group, members: keep)
        return kept.map(
            lambda keep, group, members: (group, self._repeat(members))
        )

    def _mark(self, seen, window):
        group, members = window
        found = tf.shape(keras.tree.flatten(members)[0])[0]
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
        return seen, (keep, group, members)

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
