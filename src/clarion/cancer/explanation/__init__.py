"""Which genes a trained survival model looks at, and how far that may be believed.

attribution.py   risk shared out over genes: integrated gradients, attention, coefficient x value
genes.py         one row a gene with intervals over patients, beside the Cox table of the training patients
faithful.py      is it true? deletion curves, planted genes
stability.py     do other folds or seeds say the same?
document.py      all of it as one JSON-able document
"""

from clarion.cancer.explanation.attribution import Attribution, attribute
from clarion.cancer.explanation.document import explain
from clarion.cancer.explanation.stability import stability

__all__ = ["Attribution", "attribute", "explain", "stability"]
