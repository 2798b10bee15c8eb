"""Train a network: `python train.py --dataset camvid --arch DeepMNV3V3PlusD_m1 ...`; `--help` lists every flag."""

from __future__ import annotations

from config import TrainConfig, as_dict
from utils.flags import parse_command_line

if __name__ == "__main__":
    CONFIG = parse_command_line(TrainConfig)  # before heavy imports, so that --help answers at once

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from datasets.index import load_spec
from datasets.loaders import Loader, LoaderOptions, TrainData, train_data, val_loader
from datasets.spec import DatasetSpec
from loss.build import build_loss
from network.build import build_network, check_arch, load_trunk_weights
from network.deepv3 import DeepLabV3Plus
from transforms.presets import train_transform
from utils.averaging import WeightAverage
from utils.checkpoint import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Checkpoint,
    load_checkpoint,
    load_matching,
    save_checkpoint,
)
from utils.command import run_command
from utils.compiling import compiled
from utils.device import resolve_device
from utils.distributed import (
    Processes,
    gradients_summed_later,
    process_group,
    processes,
    share_buffers,
    wait_for_all,
)
from utils.images import write_image
from utils.log import RunLog, draw_curves, free_run_folder, run_folder, tensorboard_folder
from utils.memory import give_back_freed_memory
from utils.metrics import ConfusionMatrix, Scores, scores
from utils.optim import build_optimizer, build_schedule, freeze, set_lr
from utils.pictures import colorize, shrunk, side_by_side
from utils.precision import autocast_dtype, normalise
from utils.progress import Clock, Meter, seconds_between_bars
from utils.resuming import Start, State, check_weights, find_start, first_state, restore

LOG_STEPS = 20  # how often the loss is read from the device, and written down
TEST_STEPS = 2  # --test_mode
NUM_SAMPLES = 4  # validation images whose predictions are written as pictures
LARGEST_SAMPLE = 1536  # side of those pictures, in pixels


@dataclass(frozen=True)
class Training:
    """What every epoch works with. What changes from step to step travels as an argument."""

    config: TrainConfig
    spec: DatasetSpec
    device: torch.device
    dtype: torch.dtype | None
    net: DeepLabV3Plus
    model: nn.Module  # `net`, or `net` wrapped for several processes or compiled
    criterion: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    lr_at: Callable[[float], float]
    me: Processes
    log: RunLog
    average: WeightAverage | None

    @property
    def scored_net(self) -> nn.Module:
        """The network that is validated and kept: with --ema the averaged one."""
        return self.average.net if self.average else self.net


def main(config: TrainConfig) -> int:
    """Train as `config` says. Returns the exit code."""
    spec = load_spec(config.data.dataset, config.data.dataset_dir)
    device = resolve_device(config.device.device)
    check_flags(config, spec)
    with process_group(device) as me:
        _train_as(me, config, spec, device)
    return 0


def _train_as(me: Processes, config: TrainConfig, spec: DatasetSpec, device: torch.device) -> None:
    """Train as one of the processes; what is made here is gone before they part."""
    options = LoaderOptions(me, config.device.num_workers, pin_memory=device.type == "cuda")
    count_pixels = config.loss.class_balance > 0
    data = train_data(config.data, config.augment, spec, options, seed=config.run.seed, count_pixels=count_pixels)
    val = val_loader(config.data, spec, options, at_most=TEST_STEPS if config.run.test_mode else None)
    training, state = set_up(config, spec, device, me, data.class_pixels)
    try:
        train(training, state, data, val)
    except KeyboardInterrupt:
        last = training.log.folder / "last.pth"
        kept = f"{last} is kept, and --resume goes on from it" if last.is_file() else "no epoch was done"
        training.log.say(f"stopped; {kept}.")
        raise
    finally:
        training.log.close()


def check_flags(config: TrainConfig, spec: DatasetSpec) -> None:
    """Raise what wrong flags raise later on, before caches and indices are made, which may take an hour."""
    if config.model.restore_optimizer and not config.model.snapshot:
        raise ValueError("--restore_optimizer needs --snapshot, the checkpoint to take it from.")
    if config.run.max_minutes and processes().count > 1:
        raise ValueError("--max_minutes is for one process: clocks of several would disagree. Use --max_epoch.")
    check_arch(config.model.arch)
    build_loss(config.loss, spec, None)
    build_schedule(config.optim, max_epoch=config.run.max_epoch, rlx_off_epoch=config.loss.rlx_off_epoch)
    train_transform(config.augment, spec.ignore_label)
    for path in () if config.run.resume else (config.model.snapshot, config.model.trunk_weights):
        if path and not Path(path).exists():
            raise FileNotFoundError(f"no such checkpoint: {path}")


def set_up(
    config: TrainConfig, spec: DatasetSpec, device: torch.device, me: Processes, class_pixels: Sequence[int] | None
) -> tuple[Training, State]:
    """Build network, loss, optimizer and logs; load what is gone on from. The run folder is not touched before that."""
    dtype = autocast_dtype(device, bf16=config.precision.bf16, fp16=config.precision.fp16)
    torch.manual_seed(config.run.seed)
    net = build_network(config.model.arch, spec.num_classes)
    folder = run_folder(config.run.ckpt, config.run.exp, config.run.tb_tag, test_mode=config.run.test_mode)
    start = find_start(
        folder if config.run.resume else None,
        config.model.snapshot if config.model.restore_optimizer else None,
        dataset=spec.name,
        class_names=spec.class_names,
        settings=as_dict(config),
    )
    notices = [] if start and start.is_own else _load_start_weights(net, config)
    net = net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.model.freeze_trunk:
        freeze(net.trunk_modules())
    criterion = build_loss(config.loss, spec, class_pixels).to(device)
    optimizer = build_optimizer(config.optim, net)
    lr_at = build_schedule(config.optim, max_epoch=config.run.max_epoch, rlx_off_epoch=config.loss.rlx_off_epoch)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    average = WeightAverage(net, config.optim.ema) if config.optim.ema else None
    if start:
        restore(start, net, average, optimizer, scaler)
        notices += _describe_start(start, config)
    model, wrapping = _wrap(net, config, device, me)
    if not config.run.resume:
        folder, taken = free_run_folder(folder), folder
        if folder != taken:
            notices.append(f"{taken} holds a run: this one goes to {folder} (--exp {folder.name} --resume goes on).")
    elif not start:
        notices.append(f"{folder} has no last.pth to go on from: the run starts from the beginning.")
    if _trains_on_val(config, spec):
        notices.append(f"--train_split {config.data.train_split} holds validation images: their score says little.")
    events = tensorboard_folder(config.run.tb_path, folder, is_resumed=config.run.resume)
    wait_for_all()  # every process has looked before one makes the folders
    log = RunLog(folder, events, active=me.is_main)
    for text in (*notices, *wrapping, _describe(config, spec, device, dtype, net, me), f"run folder: {folder}"):
        log.say(text)
    log.config(as_dict(config))
    state = first_state(start, config.run.start_epoch)
    if config.run.resume:
        log.rewind(state.epoch)
    training = Training(
        config, spec, device, dtype, net, model, criterion, optimizer, scaler, lr_at, me, log, average
    )  # fmt: skip
    return training, state


def train(training: Training, state: State, data: TrainData, val: Loader) -> None:
    """Train epoch by epoch, validate, and keep `last.pth` and `best.pth`."""
    run, log = training.config.run, training.log
    if state.is_due:
        state = score(training, val, state)
    clock = Clock(run.max_minutes, run.max_epoch, state.minutes)
    for epoch in () if clock.is_up() else range(state.epoch, run.max_epoch):
        torch.manual_seed(seed_of(run.seed, epoch, training.me.rank))  # so that a resumed run draws the same
        train_one_epoch(training, data.epoch(epoch), epoch, clock)
        check_weights(training.net)
        ends = run.test_mode or epoch + 1 == run.max_epoch or clock.is_up()
        is_due = ends or (epoch + 1) % run.val_interval == 0
        state = replace(state, epoch=epoch + 1, minutes=clock.minutes(), is_due=is_due)
        save(training, state, "last.pth")
        if is_due:
            state = score(training, val, state)
        if ends:  # not asked again: time that runs out after this moment pays for a last, validated epoch
            break
    if (best := log.folder / "best.pth").is_file():
        log.say(f"best mIoU {100 * state.best:.2f}: {best}")


def score(training: Training, val: Loader, state: State) -> State:
    """The state with the scores of the network as it is; `best.pth` where they are the best, and `last.pth`."""
    result = validate(training, val, state.epoch)
    training.log.say(f"epoch {state.epoch}\n{result.table()}")
    training.log.scalars("val", state.epoch, {"epoch": state.epoch, **_main_scores(result)})
    is_best = result.mean_iou > state.best
    best = max(state.best, result.mean_iou)
    state = replace(state, best=best, scores=_main_scores(result), is_due=False)
    if is_best:
        save(training, state, "best.pth")
    save(training, state, "last.pth")
    if training.me.is_main:
        draw_curves(training.log.folder)
    return state


def seed_of(*numbers: int) -> int:
    """One seed for several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def train_one_epoch(training: Training, loader: Loader, epoch: int, clock: Clock) -> None:
    """One pass over the epoch's crops, one optimizer step per `--accumulate` batches."""
    config, device = training.config, training.device
    training.model.train()
    if config.model.freeze_trunk:
        for module in training.net.trunk_modules():
            module.eval()  # frozen batch norms keep their statistics
    accumulate = min(config.optim.accumulate, len(loader))
    num_steps = len(loader) // accumulate
    meter = Meter(device)
    with tqdm(
        total=num_steps,
        desc=f"epoch {epoch + 1}/{config.run.max_epoch}",
        unit="step",
        disable=not training.me.is_main,
        dynamic_ncols=True,
        leave=False,
        mininterval=seconds_between_bars(),
    ) as progress:
        for batch_index, (images, labels) in enumerate(loader):
            step, part = divmod(batch_index, accumulate)
            if step == num_steps or clock.is_up() or (config.run.test_mode and step == TEST_STEPS):
                break
            now = clock.epoch(epoch + step / num_steps)
            relax = config.loss.rlx_off_epoch < 0 or now < config.loss.rlx_off_epoch
            if epoch == 0 and batch_index == 0 and config.augment.dump_augmentation_images:
                dump_augmentation(training, images, labels)
            meter.waited()
            set_lr(training.optimizer, training.lr_at(now))
            is_last_part = part + 1 == accumulate
            with gradients_summed_later(training.model, not is_last_part):
                loss = forward_backward(training, images, labels, relax, accumulate)
            if is_last_part:
                optimizer_step(training)
                progress.update()
            meter.worked(loss, len(images) * training.me.count)
            if is_last_part and (step % LOG_STEPS == 0 or step == num_steps - 1):
                values = {"epoch": round(epoch + step / num_steps, 4), "lr": training.lr_at(now), **meter.read()}
                training.log.scalars("train", epoch * num_steps + step, values)
                progress.set_postfix_str(
                    f"loss {values['loss']:.3f} lr {values['lr']:.2e} {values['images_per_s']:.1f} img/s "
                    f"waiting {values['waiting']:.0%} left {clock.left(now)}"
                )


def forward_backward(training: Training, images: Tensor, labels: Tensor, relax: bool, accumulate: int) -> Tensor:
    """Add the gradient of one batch. images [B, 3, H, W] uint8, labels [B, H, W] uint8. Returns the loss."""
    device = training.device
    images = normalise(images.to(device, non_blocking=True), IMAGENET_MEAN, IMAGENET_STD)
    labels = labels.to(device, non_blocking=True)
    with torch.autocast(device.type, training.dtype, enabled=training.dtype is not None):
        logits = training.model(images)
    loss = training.criterion(logits, labels, relax=relax)
    training.scaler.scale(loss / accumulate).backward()
    return loss.detach()


def optimizer_step(training: Training) -> None:
    """Apply the gradient and forget it."""
    if training.config.optim.clip_norm:
        training.scaler.unscale_(training.optimizer)
        nn.utils.clip_grad_norm_(training.net.parameters(), training.config.optim.clip_norm)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.optimizer.zero_grad(set_to_none=True)
    if training.average:
        training.average.update(training.net)


@torch.inference_mode()
def validate(training: Training, loader: Loader, epoch: int) -> Scores:
    """Score the whole images of the validation split, and write pictures of the first few."""
    net = training.scored_net.eval()
    share_buffers(net)  # each process has statistics of its own crops; all score the network that is saved
    confusion = ConfusionMatrix(training.spec.num_classes, training.spec.ignore_label, training.device)
    num_shown = 0
    give_back_freed_memory()  # whole images need other sizes than crops
    for images, labels in tqdm(
        loader, desc="validate", disable=None if training.me.is_main else True, leave=False, dynamic_ncols=True
    ):
        pixels = normalise(images.to(training.device, non_blocking=True), IMAGENET_MEAN, IMAGENET_STD)
        with torch.autocast(training.device.type, training.dtype, enabled=training.dtype is not None):
            predictions = net(pixels).argmax(1)
        confusion.update(labels.to(training.device, non_blocking=True), predictions)
        if num_shown < NUM_SAMPLES and training.me.is_main:
            for image, truth, guess in zip(images, labels, predictions.byte().cpu(), strict=True):
                write_sample(training, epoch, num_shown, image, truth, guess)
                num_shown += 1
    give_back_freed_memory()
    return scores(confusion.reduce(), training.spec.class_names)


def write_sample(training: Training, epoch: int, number: int, image: Tensor, labels: Tensor, guess: Tensor) -> None:
    """Picture, truth and prediction side by side, into the run folder and TensorBoard."""
    palette = training.spec.palette
    picture = side_by_side(
        [
            image.permute(1, 2, 0).contiguous().numpy(),
            colorize(labels.numpy(), palette),
            colorize(guess.numpy(), palette),
        ]
    )
    picture = shrunk(picture, LARGEST_SAMPLE)  # of 12 megapixels, those of a long training would fill a disk
    write_image(training.log.folder / "samples" / f"epoch{epoch:03d}_{number}.png", picture)
    training.log.image(f"sample{number}", epoch, picture)


def dump_augmentation(training: Training, images: Tensor, labels: Tensor) -> None:
    """Write the crops of a batch with their labels, to see what the network is shown."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        picture = side_by_side(
            [image.permute(1, 2, 0).contiguous().numpy(), colorize(label.numpy(), training.spec.palette)]
        )
        if training.me.is_main:
            write_image(training.log.folder / "augmentation" / f"{number}.png", picture)


def save(training: Training, state: State, name: str) -> None:
    """Write a checkpoint into the run folder; only the main process does."""
    if not training.me.is_main:
        return
    progress = {
        "optimizer": training.optimizer.state_dict(),
        "scaler": training.scaler.state_dict(),
        "best": state.best,
        "minutes": state.minutes,
        "is_due": state.is_due,
    }
    if training.average:
        progress |= {"weights": training.net.state_dict(), "num_updates": training.average.num_updates}
    checkpoint = Checkpoint(
        state_dict=training.scored_net.state_dict(),
        arch=training.config.model.arch.split(".")[-1],
        dataset=training.spec.name,
        classes=training.spec.classes,
        epoch=state.epoch,
        scores=state.scores,
        config=as_dict(training.config),
        training=progress if name == "last.pth" else {},
    )
    save_checkpoint(training.log.folder / name, checkpoint)


def _load_start_weights(net: DeepLabV3Plus, config: TrainConfig) -> list[str]:
    notices = []
    if config.model.trunk_weights:
        notices.append(f"trunk weights: {load_trunk_weights(net, config.model.trunk_weights).summary()}")
    if config.model.snapshot:
        report = load_matching(net, load_checkpoint(config.model.snapshot), config.model.snapshot)
        notices.append(f"snapshot {config.model.snapshot}: {report.summary()}")
    return notices


def _describe_start(start: Start, config: TrainConfig) -> list[str]:
    changed = start.changed(as_dict(config))
    return [
        f"going on after epoch {start.checkpoint.epoch} of {start.path}",
        *([f"with other settings than there: {', '.join(changed)}"] if changed else []),
    ]


def _wrap(net: DeepLabV3Plus, config: TrainConfig, device: torch.device, me: Processes) -> tuple[nn.Module, list[str]]:
    model: nn.Module = net
    notices = []
    if config.precision.syncbn:
        if me.count > 1 and device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        else:
            notices.append("--syncbn: plain batch norm, since there is only one process or no GPU.")
    if config.precision.compile:
        model = compiled(model, device)
    if me.count > 1:
        model = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    return model, notices


def _describe(
    config: TrainConfig,
    spec: DatasetSpec,
    device: torch.device,
    dtype: torch.dtype | None,
    net: nn.Module,
    me: Processes,
) -> str:
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    numbers = str(dtype or torch.float32).removeprefix("torch.")
    return (
        f"{config.model.arch.split('.')[-1]} ({millions:.1f} M parameters) on {spec.title}, {me.count} process(es) "
        f"on {device}, {numbers}, {config.data.bs_mult * me.count * config.optim.accumulate} crops a step"
    )


def _trains_on_val(config: TrainConfig, spec: DatasetSpec) -> bool:
    """Whether the split trained on has images that are validated on."""
    if config.data.cv is not None or config.data.train_split == "train":
        return False
    shared = set(spec.splits.get(config.data.train_split, ())) & set(spec.splits.get("val", ()))
    return spec.default_fold is not None or bool(shared)


def _main_scores(result: Scores) -> dict[str, float]:
    return {"mean_iou": result.mean_iou, "mean_accuracy": result.mean_accuracy, "pixel_accuracy": result.pixel_accuracy}


if __name__ == "__main__":
    run_command(main, CONFIG)
