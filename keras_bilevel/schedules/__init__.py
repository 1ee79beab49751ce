"""Schedules R(t): which share of a batch's smallest losses is kept."""

from keras_bilevel.schedules.co_teaching_schedule import CoTeachingSchedule
from keras_bilevel.schedules.constant_schedule import ConstantSchedule
from keras_bilevel.schedules.mlp_schedule import MLPSchedule
from keras_bilevel.schedules.piecewise_schedule import PiecewiseSchedule
from keras_bilevel.schedules.random_monotone_schedule import (
    RandomMonotoneSchedule,
)
from keras_bilevel.schedules.rbf_schedule import RBFSchedule
from keras_bilevel.schedules.s2e_schedule import S2ESchedule
from keras_bilevel.schedules.schedule import Schedule
from keras_bilevel.schedules.schedule import plot_schedules
from keras_bilevel.schedules.suggest_tau import suggest_tau
