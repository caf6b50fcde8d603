import pytest
import torch

from ocrkit.models.kernels import patches_as_products


def _convolution(dimensions: int, **options) -> torch.nn.Module:
    kind = {2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[dimensions]
    kernel = (2, 4, 4)[-dimensions:]
    torch.manual_seed(0)
    return kind(3, 5, **{"kernel_size": kernel, "stride": kernel, **options})


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_of_the_convolution(dimensions, bias):
    layer, plain = (_convolution(dimensions, bias=bias) for _ in range(2))
    patches_as_products(layer)
    assert type(layer) is not type(plain) and isinstance(layer, type(plain))
    assert layer.state_dict().keys() == plain.state_dict().keys()
    patches = torch.randn(7, 3, *layer.kernel_size)
    ours, theirs = layer(patches), plain(patches)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)


def test_pictures_larger_than_a_patch_are_convolved():
    layer, plain = _convolution(2), _convolution(2)
    patches_as_products(layer)
    picture = torch.randn(1, 3, 8, 12)
    torch.testing.assert_close(layer(picture), plain(picture), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"stride": 1}, {"padding": 1}, {"groups": 1, "stride": 2}])
def test_convolutions_that_slide_are_left_alone(options):
    layer = _convolution(2, **options)
    patches_as_products(layer)
    assert type(layer) is torch.nn.Conv2d
