"""What train.py needs before its first step: everything that flags alone decide, then the data, then the run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from config import DataConfig, ModelConfig, PrecisionConfig, TrainConfig, as_dict
from datasets.files import dataset_root, find_samples
from datasets.loaders import LoaderOptions, TrainData, train_data, val_loader
from datasets.specs.spec import DatasetSpec
from loss import Loss, build_loss
from network.build import build_network, head_options
from network.checkpoint import Checkpoint, load_checkpoint, load_matching
from network.deepv3 import DeepLabV3Plus
from network.weights import IMAGENET, find_imagenet_weights, load_trunk_weights
from training.checkpoints import State, check_fits, find_start, open_run, restore
from training.loop import TEST_STEPS
from training.optim import WeightAverage, build_optimizer, build_schedule, freeze
from training.run_log import RunLog, data_fingerprint, record_start
from utils.device import autocast_dtype, compiled
from utils.distributed import Processes
from utils.text import counted

SMALL_CROP = 32  # pixels: the coarsest grid on which a network sees an image is 16 pixels wide


@dataclass(frozen=True)
class Training:
    """What every epoch works with. What changes from step to step travels as an argument."""

    config: TrainConfig
    spec: DatasetSpec
    device: torch.device
    dtype: torch.dtype | None
    net: DeepLabV3Plus
    model: nn.Module  # `net`, or `net` wrapped for several processes or compiled
    losses: tuple[Loss, Loss]  # with relaxation, and from --rlx_off_epoch on without
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    lr_at: Callable[[float], float]
    average: WeightAverage | None
    data: TrainData
    val: DataLoader[tuple[Tensor, Tensor]]
    processes: Processes
    log: RunLog

    @property
    def scored_net(self) -> nn.Module:
        """The network that is validated and kept: with --ema the averaged one."""
        return self.average.net if self.average else self.net


def set_up(
    config: TrainConfig, spec: DatasetSpec, device: torch.device, processes: Processes
) -> tuple[Training, State]:
    """Build everything, and load the checkpoint to continue from. Raises ValueError or OSError for what does not fit.

    Wrong flags are reported before the data are prepared, which may take an hour; the run folder is not touched before
    all of it has succeeded.
    """
    model_flags, run, settings = config.model, config.run, as_dict(config)
    if model_flags.restore_optimizer and not model_flags.snapshot:
        raise ValueError("--restore_optimizer needs --snapshot, the checkpoint to restore from.")
    if run.max_minutes and processes.world_size > 1:
        raise ValueError("--max_minutes is for one process: the clocks of several would disagree. Use --max_epoch.")
    if config.loss.rlx_off_epoch >= 0 and not config.loss.relaxes and config.optim.lr_schedule != "scl-poly":
        raise ValueError(
            "--rlx_off_epoch changes nothing without --relax, --jointwtborder or --lr_schedule scl-poly; add one of "
            "them, or leave --rlx_off_epoch out."
        )
    dtype = autocast_dtype(device, bf16=config.precision.bf16, fp16=config.precision.fp16)
    lr_at = build_schedule(config.optim, max_epoch=run.max_epoch, rlx_off_epoch=config.loss.rlx_off_epoch)
    losses = build_loss(config.loss, spec, device)
    _check_crop(config, device, processes, config.data.bs_mult)
    start = find_start(run, model_flags.snapshot if model_flags.restore_optimizer else None)
    given = start.checkpoint if start else load_checkpoint(model_flags.snapshot) if model_flags.snapshot else None
    head = head_options(model_flags.aspp_rates, model_flags.refine) or dict(given.head if given else {})
    if start:
        check_fits(start, spec, settings, head)
    torch.manual_seed(run.seed)
    net = build_network(model_flags.arch, spec.num_classes, **head)
    about = [] if start and start.is_own else _load_start_weights(net, model_flags, given)
    net = net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if model_flags.freeze_trunk:
        freeze(net.trunk_modules())
    optimizer = build_optimizer(config.optim, net)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    average = WeightAverage(net, config.optim.ema) if config.optim.ema else None
    if start:
        restore(start, net, optimizer, scaler=scaler, average=average)
    model, about_model = _model(net, config.precision, device, processes)

    data, val = _load_data(config, spec, device, processes)
    _check_crop(config, device, processes, min(config.data.bs_mult, len(data.sampler)))  # of a set smaller than a batch
    if config.loss.class_balance:
        losses = build_loss(config.loss, spec, device, data.class_pixels)
    if processes.world_size > 1:
        model = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    if _trains_on_val(config.data, spec):
        split = config.data.train_split
        about.append(f"--train_split {split} includes validation images, so the validation score is optimistic.")
    about += [*about_model, _describe(config, spec, device, dtype, net, processes)]
    record = record_start(dtype, _fingerprint(config.data, spec)) if processes.is_main else {}
    log, state = open_run(run, start, State(run.start_epoch), settings, record, about, is_main=processes.is_main)
    training = Training(
        config, spec, device, dtype, net, model, losses, optimizer, scaler, lr_at, average,
        data, val, processes, log,
    )  # fmt: skip
    return training, state


def _check_crop(config: TrainConfig, device: torch.device, processes: Processes, batch: int) -> None:
    """Raise ValueError if batch norm cannot normalise `batch` crops: where a channel has one value, it has no variance.

    The network is tried without memory; in a crop above SMALL_CROP a channel always has more.
    """
    height = config.augment.crop_size
    width = config.augment.crop_width or height
    if min(height, width) > SMALL_CROP:
        return
    arch = config.model.arch
    count = processes.world_size if config.precision.syncbn and device.type == "cuda" else 1
    with torch.device("meta"):
        net, crops = build_network(arch, 2).train(), torch.empty(batch * count, 3, height, width)
    try:
        net(crops)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"--crop_size {height}: of {counted(batch, 'crop')} of {width}x{height} pixels the deepest layers of "
            f"{arch.split('.')[-1]} see a single value, from which batch norm learns nothing. Use a larger "
            "--crop_size, or more crops per process and step (--bs_mult)."
        ) from error


def _load_start_weights(net: DeepLabV3Plus, flags: ModelConfig, snapshot: Checkpoint | None) -> list[str]:
    """Load what --trunk_weights names, then `snapshot`. Returns what to print about it."""
    notices = []
    if flags.trunk_weights:
        wanted = flags.trunk_weights
        path = find_imagenet_weights(flags.arch) if wanted == IMAGENET else wanted
        notices.append(f"trunk weights {path}: {load_trunk_weights(net, path).summary()}")
    if snapshot and flags.snapshot:
        arch = flags.arch.split(".")[-1]
        if snapshot.arch not in (None, arch):
            raise ValueError(f"--snapshot {flags.snapshot} is a {snapshot.arch}, not a {arch}; give it as --arch.")
        report = load_matching(net, snapshot, flags.snapshot)
        notices.append(f"snapshot {flags.snapshot}: {report.summary()}")
    return notices


def _model(
    net: DeepLabV3Plus, flags: PrecisionConfig, device: torch.device, processes: Processes
) -> tuple[nn.Module, list[str]]:
    """`net` as it is trained, apart from several processes, and what to print about it."""
    model: nn.Module = net
    notices = []
    if flags.syncbn:
        if processes.world_size > 1 and device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        else:
            notices.append("--syncbn: using plain batch norm, because there is only one process or no GPU.")
    return compiled(model, device) if flags.compile else model, notices


def _load_data(
    config: TrainConfig, spec: DatasetSpec, device: torch.device, processes: Processes
) -> tuple[TrainData, DataLoader[tuple[Tensor, Tensor]]]:
    options = LoaderOptions(processes, config.device.num_workers, pin_memory=device.type == "cuda")
    count_pixels = config.loss.class_balance > 0
    data = train_data(config.data, config.augment, spec, options, seed=config.run.seed, count_pixels=count_pixels)
    return data, val_loader(config.data, spec, options, at_most=TEST_STEPS if config.run.test_mode else None)


def _fingerprint(flags: DataConfig, spec: DatasetSpec) -> str:
    root = dataset_root(spec.name, flags.dataset_dir)
    split = flags.train_split if flags.cv is None else "train"
    return data_fingerprint(spec, *(find_samples(spec, root, name, flags.cv) for name in (split, "val")))


def _describe(
    config: TrainConfig,
    spec: DatasetSpec,
    device: torch.device,
    dtype: torch.dtype | None,
    net: nn.Module,
    processes: Processes,
) -> str:
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    numbers = str(dtype or torch.float32).removeprefix("torch.")
    count = counted(processes.world_size, "process", "es")
    return (
        f"{config.model.arch.split('.')[-1]} ({millions:.1f} M parameters) on {spec.title}, {count} on {device}, "
        f"{numbers}, {counted(config.data.bs_mult * processes.world_size * config.optim.accumulate, 'crop')} a step"
    )


def _trains_on_val(flags: DataConfig, spec: DatasetSpec) -> bool:
    """Whether the split trained on has images that are validated on."""
    if flags.cv is not None or flags.train_split == "train":
        return False
    shared = set(spec.splits.get(flags.train_split, ())) & set(spec.splits.get("val", ()))
    return spec.default_fold is not None or bool(shared)
