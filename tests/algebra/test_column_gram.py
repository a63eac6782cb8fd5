"""The Gram matrix by strips is the whole one, of any width."""

import pytest
import torch

from tclora.algebra import column_gram


@pytest.mark.parametrize("width", [1, 127, 128, 130, 161, 200])
def test_strips_make_the_whole(width):
    columns = torch.randn(50, width, dtype=torch.float64, generator=torch.Generator().manual_seed(width))
    # Sums of 50 products of numbers of order one, added in another order.
    torch.testing.assert_close(column_gram(columns), columns.mT @ columns, rtol=0, atol=1e-12)
