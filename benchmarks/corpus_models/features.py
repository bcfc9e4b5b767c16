"""Models that read features of things: molecules, and rows of tables."""

from __future__ import annotations

import numpy as np

from corpus_models.model import Inputs, model
from corpus_models.signals import normal, tokens


@model("caustic-nmr==0.4.1", "caustic/data/best_v2_carbons.onnx")
def caustic_graph() -> Inputs:
    """Return 8 residues of 8 atoms as a graph for a message-passing network (PaiNN).

    Each atom has an edge from each of its 16 nearest neighbours.
    """
    residues, each, neighbours = 8, 8, 16
    atoms = residues * each
    positions = np.cumsum(normal(atoms, 3, scale=0.9), axis=0)
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    sources = np.argsort(distances, axis=1)[:, 1 : neighbours + 1].ravel()
    targets = np.repeat(np.arange(atoms), neighbours)
    apart = np.abs(sources // each - targets // each)
    normals = normal(atoms, 3)
    edges = atoms * neighbours
    return {
        "element": tokens(atoms, below=7),
        "amino_acid": tokens(atoms, below=21),
        "atom_role": tokens(atoms, below=14),
        "bfactor": normal(atoms),
        "edge_index": np.stack([sources, targets]),
        "edge_dist": distances[sources, targets],
        "seq_sep": apart,
        "same_residue": (apart == 0).astype(np.float32),
        "target_indices": np.arange(atoms).reshape(residues, each)[:, :6],
        "target_mask": np.ones((residues, 6), bool),
        "residue_types": tokens(residues, below=20),
        "residue_geometry": normal(residues, 52),
        "target_environment": normal(residues, 6, 15),
        "temperature_feature": normal(residues, 1),
        "target_atom_rsasa": np.abs(normal(residues, 6)),
        "pos": positions,
        "node_normal": normals / np.linalg.norm(normals, axis=1, keepdims=True),
        "is_hbond": np.zeros(edges, np.float32),
        "hb_cos": normal(edges, scale=0.1),
    }


@model("surfaces-onnx-files==0.0.1", "surfaces_onnx_files/gradient_boosting_regressor.onnx")
def surfaces_mlp() -> Inputs:
    """Return 16 rows of a table for a multilayer perceptron of scikit-learn behind a Scaler."""
    return {"input": normal(16, 4)}


@model("surfaces-onnx-files==0.0.1", "surfaces_onnx_files/k_neighbors_classifier.validity.onnx")
def surfaces_trees() -> Inputs:
    """Return 16 rows of a table for trees of scikit-learn."""
    return {"input": normal(16, 4)}
