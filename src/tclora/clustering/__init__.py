"""Examples into groups: k-means on a sample, every example assigned, and what each group is about."""

from tclora.clustering.kmeans import ClusterModel, assign_clusters, fit_clusters
from tclora.clustering.store import load_clusters, save_clusters
from tclora.clustering.summary import summarize_clusters

__all__ = ["ClusterModel", "assign_clusters", "fit_clusters", "load_clusters", "save_clusters", "summarize_clusters"]
