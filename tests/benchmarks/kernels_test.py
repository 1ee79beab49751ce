"""Kernels are counted, those of a loop as often as it turns."""

import tensorflow as tf

from benchmarks import kernels


def looped(turns):
    def step():
        # A product and a sine for each turn.
        return tf.while_loop(
            lambda turn, x: turn < turns,
            lambda turn, x: (turn + 1, tf.sin(x @ x)),
            (0, tf.random.stateless_uniform((4, 4), (1, 2))),
        )[1]

    return step


def test_ops_of_a_loop_count_as_often_as_it_turns():
    one, two, nine = (
        kernels.executed(tf.function(looped(turns), autograph=False))
        for turns in (1, 2, 9)
    )
    # With them go counters and a comparison.
    assert 2 < two - one < 7
    assert nine - one == 8 * (two - one)


def test_instructions_of_a_program_count_as_often_as_they_run():
    hlo = """HloModule a

%body.1 (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  %a = f32[4]{0} get-tuple-element(%p), index=1
  %b = f32[4]{0} fusion(%a), kind=kLoop, calls=%c
  ROOT %t = (s32[], f32[4]{0}) tuple(%b, %b)
}

ENTRY %main.2 (q: f32[4]) -> f32[4] {
  %q = f32[4]{0} parameter(0)
  %d = f32[4]{0} dot(%q, %q)
  %w = (s32[], f32[4]{0}) while(%d), condition=%e, body=%body.1, XXX
  ROOT %r = f32[4]{0} get-tuple-element(%w), index=1
}
"""
    known = hlo.replace("XXX", 'x={"known_trip_count":{"n":"5"}}')
    assert kernels.instructions(known, 7) == 1 + 5
    assert kernels.instructions(hlo, 7) == 1 + 7
