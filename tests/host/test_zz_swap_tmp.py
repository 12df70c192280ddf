import sys; sys.path.insert(0, "/work/main/tests/host")
from test_native_previews import *
from unittest.mock import patch
def test_swap(setting):
    setting.args.blocks_to_swap = 1
    with patch("torch.cuda.current_device", lambda: 0), patch("torch.cuda.set_device", lambda d: None):
        setting.render(setting.on_disk())
        assert len(setting.trainer.loaded) == 2 and all(m() is None for _, m in setting.trainer.loaded)
        tr, net = setting.train()
        setting.accelerator.unwrap_model(tr).prepare_block_swap_before_forward()
        setting.trainer.loaded.clear()
        setting.render({**setting.on_disk(), LOW: Live(tr)})
        assert tr.offloader.forward_only is False
        assert not tr.offloader.futures
