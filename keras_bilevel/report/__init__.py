"""Reports on suspect labels: tables, figures and cleaned data.

Every function takes scores first, then the data. Scores are one number for each
example, in the order of the data. A higher score is more trustworthy. NaN means
that the example was never seen in training. Scores may be:

- an array or a pandas Series of shape `(n,)`: of a Series the order counts,
  not the index;
- a DataFrame of one column, or with a column `score`;
- what has such scores as `example_scores`: `kb.callbacks.ExampleHistory`,
  `LabelCurves` and `SelectionHistory`, `kb.weighting.Soseleto`, or an object
  of your own. Losses, of which a high one is suspect, need a minus sign.

Tables are pandas DataFrames, and figures are matplotlib's. A figure of one
panel is drawn into `ax` and returned as `matplotlib.axes.Axes`, whose attribute
`figure` is the figure. One of several panels is returned as
`matplotlib.figure.Figure`. Both libraries come with
`pip install "keras-bilevel[report]"`; masks and cleaned data need neither.
"""

from keras_bilevel.report.classes import class_shares
from keras_bilevel.report.classes import plot_class_shares
from keras_bilevel.report.cleaning import cleaned
from keras_bilevel.report.cleaning import keep_mask
from keras_bilevel.report.images import contact_sheet
from keras_bilevel.report.out_of_sample import out_of_sample
from keras_bilevel.report.page import write_html
from keras_bilevel.report.ranking import suspects
from keras_bilevel.report.selection import kept_examples
from keras_bilevel.report.selection import label_precision
from keras_bilevel.report.selection import plot_label_precision
from keras_bilevel.report.spreadsheet import write_csv
from keras_bilevel.report.thresholds import plot_threshold_sweep
from keras_bilevel.report.thresholds import threshold_sweep
