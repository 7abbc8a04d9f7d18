"""Circuits as files that other programs read; opening one needs no torch."""

from circuits.export.checking import check_file
from circuits.export.diagrams import dot, mermaid
from circuits.export.eap_ig import eap_ig
from circuits.export.eap_ig_reading import read_eap_ig
from circuits.export.formats import FORMATS, export_circuit, file_stem
from circuits.export.graph_files import gexf, graphml
from circuits.export.neuronpedia import neuronpedia
from circuits.export.node_link import (
    circuit_from_json,
    circuit_to_json,
    read_circuit,
    write_circuit,
)
from circuits.export.tables import edges_csv, nodes_csv

__all__ = [
    "FORMATS",
    "check_file",
    "circuit_from_json",
    "circuit_to_json",
    "dot",
    "eap_ig",
    "edges_csv",
    "export_circuit",
    "file_stem",
    "gexf",
    "graphml",
    "mermaid",
    "neuronpedia",
    "nodes_csv",
    "read_circuit",
    "read_eap_ig",
    "write_circuit",
]
