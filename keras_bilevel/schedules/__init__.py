"""Schedules R(t): which share of a batch's smallest losses is kept."""

from keras_bilevel.schedules.hand_made import ConstantSchedule
from keras_bilevel.schedules.hand_made import CoTeachingSchedule
from keras_bilevel.schedules.hand_made import PiecewiseSchedule
from keras_bilevel.schedules.rivals import MLPSchedule
from keras_bilevel.schedules.rivals import RandomMonotoneSchedule
from keras_bilevel.schedules.rivals import RBFSchedule
from keras_bilevel.schedules.s2e_schedule import S2ESchedule
from keras_bilevel.schedules.schedule import Schedule
from keras_bilevel.schedules.schedule import plot_schedules
from keras_bilevel.schedules.suggest_tau import suggest_tau
