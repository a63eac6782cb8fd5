"""Examples into groups: fitted on a sample by one of several algorithms, every example assigned, each described."""

from tclora.clustering.agreement import normalized_mutual_information, purity, silhouette_of_sample
from tclora.clustering.algorithm import CLUSTER_ALGORITHMS, FitJob, Fitted
from tclora.clustering.assign import assign_examples, assignment_of
from tclora.clustering.at_random import shared_labels, shuffled_labels
from tclora.clustering.by_task import task_labels
from tclora.clustering.cluster_map import map_clusters
from tclora.clustering.fit import fit_clusters
from tclora.clustering.kmeans import FAISS_FROM_ROWS
from tclora.clustering.model import Clustering, ClusterModel, ExampleFacts
from tclora.clustering.n_clusters import DEFAULT_CANDIDATES, choose_n_clusters
from tclora.clustering.passes import assign_clusters
from tclora.clustering.quality import adjusted_rand, balance
from tclora.clustering.shape_based import DENSITY_AXES
from tclora.clustering.store import load_clusters, save_clusters
from tclora.clustering.summary import n_words, summarize_clusters

__all__ = [
    "CLUSTER_ALGORITHMS",
    "DEFAULT_CANDIDATES",
    "DENSITY_AXES",
    "FAISS_FROM_ROWS",
    "ClusterModel",
    "Clustering",
    "ExampleFacts",
    "FitJob",
    "Fitted",
    "adjusted_rand",
    "assign_clusters",
    "assign_examples",
    "assignment_of",
    "balance",
    "choose_n_clusters",
    "fit_clusters",
    "load_clusters",
    "map_clusters",
    "n_words",
    "normalized_mutual_information",
    "purity",
    "save_clusters",
    "shared_labels",
    "shuffled_labels",
    "silhouette_of_sample",
    "summarize_clusters",
    "task_labels",
]
