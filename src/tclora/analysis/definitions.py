"""What every column of the tables means, in one place.

The page in an analysis folder is made from these, and the CSV files take their columns from them, so no column lacks a
meaning.
"""

__all__ = ["ADAPTER_COLUMNS", "CP_COLUMNS", "MODULE_COLUMNS", "PAIR_COLUMNS"]

MODULE_COLUMNS = {
    "module": "path of the module",
    "layer": "first number in the path; empty where there is none",
    "kind": "last name in the path, with the one before it where that alone is ambiguous",
    "d_out": "rows of the weight",
    "d_in": "columns of the weight",
    "n_present": "adapters whose delta is not zero",
    "norm": "root of the sum over adapters of the squared Frobenius norm of the delta",
    "sti": "singular task interference ||(U'U - I) S (V'V - I)||_1 (entrywise) of all adapters' singular triplets side "
    "by side; in units of a singular value",
    "sti_ratio": "sti over the sum of singular values: 0 for orthogonal adapters, (n - 1)^2 for n equal ones",
    "cosine": "mean over pairs of the cosine of the deltas, -1 to 1",
    "out_cosine": "mean over pairs of the mean cosine of principal angles between column spaces, 0 to 1",
    "in_cosine": "the same between row spaces",
    "shared_energy": "n |mean delta|^2 / sum |delta|^2 over the adapters present: 1 for equal ones, 1/n "
    "for orthogonal ones, 0 where they cancel",
    "sign_conflict": "share of sampled entries that two adapters push in opposite directions, 0 to 1",
    "sign_conflict_weighted": "the same, an entry counting by the sum of magnitudes there",
    "pair_sign_conflict": "mean over pairs of the share of opposite signs, weighted by magnitude: "
    "0.5 for unrelated adapters",
    "cancelled": "share of all magnitude that is lost when the adapters are added entry by entry",
    "out_effective_rank": "exp of the entropy of the singular values of [delta_1 ... delta_n]: output "
    "directions in use, 1 to P",
    "out_participation": "(sum s^2)^2 / sum s^4 of the same singular values: directions that hold the energy",
    "in_effective_rank": "the first for [delta_1; ...; delta_n]",
    "in_participation": "the second for [delta_1; ...; delta_n]",
}

CP_COLUMNS = {
    "cp_rank": "terms asked for",
    "n_terms": "terms used",
    "fit": "1 - relative error of the CP model (Frobenius)",
    "sti": "CP-STI ||(B'B - I) diag(weights) (C'C - I)||_1 of the unit out and in columns of the CP model",
    "sti_ratio": "CP-STI over the sum of weights",
    "shared_energy": "share of squared weight in terms with a participation ratio above (n_present + 1) / 2",
    "start": "start of the solver that won",
    "n_iter": "sweeps",
    "converged": "whether the solver had settled",
    "exact": "whether the optimum was known without iterating",
    "start_spread": "worst minus best relative error of the starts that were swept to the end",
    "triple_cosine": "lowest product over the three modes of cosines of two terms; near -1 where terms cancel",
    "weight_energy": "sum of squared weights over the squared norm; far above 1 where terms cancel",
    "degenerate": "terms cancel: do not read single terms, their interference or their sharing",
}

PAIR_COLUMNS = {
    "module": "path of the module; empty for the whole adapters",
    "first": "one adapter",
    "second": "the other",
    "cosine": "cosine of the deltas, -1 to 1",
    "out_cosine_mean": "mean cosine of the principal angles between the column spaces, 0 to 1",
    "out_cosine_largest": "cosine of the smallest angle: 1 if the spaces share a direction",
    "out_cosine_smallest": "cosine of the largest angle: 1 if one space holds the other",
    "in_cosine_mean": "the same between row spaces",
    "in_cosine_largest": "the same between row spaces",
    "in_cosine_smallest": "the same between row spaces",
    "sign_conflict": "of the sampled entries that both change, the share of opposite signs: 0.5 for unrelated adapters",
    "sign_conflict_weighted": "the same, an entry counting by the sum of the two magnitudes",
}

ADAPTER_COLUMNS = {
    "module": "path of the module",
    "adapter": "the adapter",
    "rank": "its nominal rank; 0 where it lacks the module",
    "norm": "Frobenius norm of its delta",
    "effective_rank": "exp of the entropy of its singular values",
    "participation": "(sum s^2)^2 / sum s^4 of its singular values",
}
