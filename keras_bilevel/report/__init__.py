"""Answers for people, from any score per example: which are bad?"""

from keras_bilevel.report.classes import class_shares
from keras_bilevel.report.classes import plot_class_shares
from keras_bilevel.report.cleaning import cleaned
from keras_bilevel.report.cleaning import keep_mask
from keras_bilevel.report.images import contact_sheet
from keras_bilevel.report.page import write_html
from keras_bilevel.report.ranking import suspects
from keras_bilevel.report.selection import kept_examples
from keras_bilevel.report.selection import label_precision
from keras_bilevel.report.selection import plot_label_precision
from keras_bilevel.report.thresholds import plot_threshold_sweep
from keras_bilevel.report.thresholds import threshold_sweep
