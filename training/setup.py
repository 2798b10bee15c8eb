"""What train.py needs before its first step: everything that flags alone decide, then the data, then the run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from config import DataConfig, ModelConfig, PrecisionConfig, TrainConfig, as_dict, short_name
from datasets.files import dataset_root, find_samples
from datasets.loaders import LoaderOptions, TrainData, train_data, val_loader
from datasets.specs.spec import DatasetSpec
from loss import Loss, build_loss
from network.blocks import Network
from network.checkpoint import Checkpoint, load_checkpoint, load_state
from network.deepv3 import build_network
from network.weights import IMAGENET, find_imagenet_weights, load_trunk_weights
from training.checkpoints import check_fits, find_start, open_run, restore
from training.loop import TEST_STEPS, Progress
from training.optim import WeightAverage, build_optimizer, build_schedule
from training.run_log import RunLog, data_fingerprint, record_start
from utils.device import autocast_dtype, compile_for, make_deterministic
from utils.distributed import Processes, synchronise_batch_norm
from utils.text import counted


@dataclass(frozen=True)
class Training:
    """What every epoch works with."""

    config: TrainConfig
    spec: DatasetSpec
    device: torch.device
    dtype: torch.dtype | None
    net: Network
    head: Mapping[str, Any]  # in what it differs from the architecture's usual one
    model: nn.Module  # `net`, or `net` wrapped for several processes or compiled
    losses: tuple[Loss, Loss]  # with relaxation, and from --rlx_off_epoch on without
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    lr_at: Callable[[float], float]
    accumulate: int  # batches a step
    average: WeightAverage | None
    data: TrainData
    val: DataLoader[tuple[Tensor, Tensor]]
    processes: Processes
    log: RunLog
    progress: Progress

    @property
    def scored_net(self) -> nn.Module:
        """The network that is validated and kept: with --ema the averaged one."""
        return self.average.net if self.average else self.net


def set_up(config: TrainConfig, spec: DatasetSpec, device: torch.device, processes: Processes) -> Training:
    """Build everything, and load the checkpoint to continue from. Raises ValueError or OSError for what does not fit.

    Wrong flags are reported before the data are prepared, which may take an hour; the run folder is not touched before
    all of it has succeeded.
    """
    _check_flags(config, device)
    model_flags, run, settings = config.model, config.run, as_dict(config)
    if config.precision.deterministic:
        make_deterministic()
    accumulate = batches_a_step(config, processes.world_size)
    dtype = autocast_dtype(device, bf16=config.precision.bf16, fp16=config.precision.fp16)
    lr_at = build_schedule(config.optim, max_epoch=run.max_epoch, rlx_off_epoch=config.loss.rlx_off_epoch)
    losses = build_loss(config.loss, spec, device)
    start = find_start(run, model_flags.snapshot if model_flags.restore_optimizer else None)
    given = start.checkpoint if start else load_checkpoint(model_flags.snapshot) if model_flags.snapshot else None
    head = model_flags.head or dict(given.head if given else {})
    if start:
        check_fits(start, spec, settings, head)
    torch.manual_seed(run.seed)
    net = build_network(model_flags.arch, spec.num_classes, **head)
    about = [] if start else _load_start_weights(net, model_flags, given)
    net = net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if model_flags.freeze_trunk:
        for module in net.trunk_modules():
            module.requires_grad_(False)
    optimizer = build_optimizer(config.optim, net)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    average = WeightAverage(net, config.optim.ema) if config.optim.ema else None
    if start:
        restore(start, net, optimizer, scaler=scaler, average=average)
    if model_flags.checkpoint_activations:
        net.checkpoint_activations()
    model: nn.Module = net
    if config.precision.syncbn and processes.world_size > 1:
        model = synchronise_batch_norm(model, device)
    elif config.precision.syncbn:
        about.append("--syncbn: using plain batch norm, because there is only one process.")
    if config.precision.compile:
        model = compile_for(model, device)

    options = LoaderOptions(processes, config.device.num_workers, pin_memory=device.type == "cuda")
    balances = config.loss.class_balance > 0
    data = train_data(config.data, config.augment, spec, options, seed=run.seed, count_pixels=balances)
    val = val_loader(config.data, spec, options, at_most=TEST_STEPS if run.test_mode else None)
    if balances:
        losses = build_loss(config.loss, spec, device, data.class_pixels)
    if processes.world_size > 1:
        model = _exchange_gradients(model, config.precision, device)
    record = _record_data(config.data, spec, data, dtype, about) if processes.is_main else {}
    accumulate = min(accumulate, len(data))
    num_crops = config.data.bs_mult * processes.world_size
    if accumulate > 1:
        normed = num_crops if config.precision.syncbn else config.data.bs_mult
        num_crops *= accumulate
        about.append(f"batch norm sees {counted(normed, 'crop')} at a time, not the {num_crops} of a step.")
    about.append(
        f"{short_name(model_flags.arch)} ({sum(p.numel() for p in net.parameters()) / 1e6:.1f} M parameters) on "
        f"{spec.title}, {counted(processes.world_size, 'process', 'es')} on {device}, "
        f"{str(dtype or torch.float32).removeprefix('torch.')}, {counted(num_crops, 'crop')} a step"
    )
    log, progress = open_run(run, start, settings, record, about, crops_a_step=num_crops)
    return Training(
        config, spec, device, dtype, net, head, model, losses, optimizer, scaler, lr_at, accumulate, average,
        data, val, processes, log, progress,
    )  # fmt: skip


def _record_data(
    flags: DataConfig, spec: DatasetSpec, data: TrainData, dtype: torch.dtype | None, about: list[str]
) -> dict[str, Any]:
    """What the run starts with, see `record_start`. Tells in `about` if it is validated on what it trains on."""
    val_samples = find_samples(spec, dataset_root(spec.name, flags.dataset_dir), "val", flags.cv)
    if set(data.samples) & set(val_samples):
        about.append(f"--train_split {flags.train_split} includes validation images, so its score is optimistic.")
    return record_start(dtype, data_fingerprint(spec, data.samples, val_samples))


def _check_flags(config: TrainConfig, device: torch.device) -> None:
    """Raises ValueError for flags of several groups that exclude or need each other, or another device."""
    if config.model.restore_optimizer and not config.model.snapshot:
        raise ValueError("--restore_optimizer needs --snapshot, the checkpoint to restore from.")
    if config.precision.compile and config.model.checkpoint_activations:
        raise ValueError("--compile decides itself what to compute twice; leave out --checkpoint_activations.")
    if config.loss.rlx_off_epoch >= 0 and not config.loss.relaxes and config.optim.lr_schedule != "scl-poly":
        raise ValueError("--rlx_off_epoch needs one of --relax, --jointwtborder and --lr_schedule scl-poly.")
    if config.precision.bf16_gradients and device.type != "cuda":
        raise ValueError("--bf16_gradients is for GPUs; leave it out.")


def _exchange_gradients(model: nn.Module, flags: PrecisionConfig, device: torch.device) -> DistributedDataParallel:
    ids = [device.index] if device.type == "cuda" else None
    parallel = DistributedDataParallel(
        model, device_ids=ids, gradient_as_bucket_view=True, bucket_cap_mb=flags.bucket_mb
    )
    if flags.bf16_gradients:
        parallel.register_comm_hook(None, bf16_compress_hook)
    return parallel


def batches_a_step(config: TrainConfig, world_size: int) -> int:
    """How many batches of a process a step takes. Raises ValueError if --global_batch is no multiple of a batch."""
    wanted, at_once = config.optim.global_batch, config.data.bs_mult * world_size
    if not wanted:
        return config.optim.accumulate
    if config.optim.accumulate > 1:
        raise ValueError("--global_batch says how much to accumulate; leave --accumulate out.")
    if wanted % at_once:
        raise ValueError(
            f"--global_batch {wanted} is no multiple of the {at_once} crops of --bs_mult {config.data.bs_mult} in "
            f"{counted(world_size, 'process', 'es')}; change one of them."
        )
    return wanted // at_once


def _load_start_weights(net: Network, flags: ModelConfig, snapshot: Checkpoint | None) -> list[str]:
    """Load what --trunk_weights names, then `snapshot`. Returns what to print about it."""
    notices = []
    if flags.trunk_weights:
        wanted = flags.trunk_weights
        path = find_imagenet_weights(flags.arch) if wanted == IMAGENET else wanted
        notices.append(f"trunk weights {path}: {load_trunk_weights(net, path).summary()}")
    if snapshot and flags.snapshot:
        arch = short_name(flags.arch)
        if snapshot.arch not in (None, arch):
            raise ValueError(f"--snapshot {flags.snapshot} is a {snapshot.arch}, not a {arch}; give it as --arch.")
        report = load_state(net, snapshot, flags.snapshot, partly=True)
        notices.append(f"snapshot {flags.snapshot}: {report.summary()}")
    return notices
