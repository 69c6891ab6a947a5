"""The command `visreplay`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from visreplay.agent import Limits, Sampling, Trajectory, VisualAgent, completed
from visreplay.replay_core import Method
from visreplay.tasks.analyze import analyze
from visreplay.tasks.calibrate import calibrate
from visreplay.tasks.console import print_step
from visreplay.tasks.options import (
    VIDEO_SUFFIXES,
    BaseDeviceOption,
    BaseOption,
    Checkpoints,
    DeviceOption,
    DtypeOption,
    EntryLayerOption,
    LearningRateOption,
    OptimizerOption,
    PolicyOption,
    ProcessorOption,
    ProtocolOption,
    Protocols,
    ReplayLayersOption,
    SideOption,
    StateLayersOption,
    StepsOption,
    SwapRolesOption,
    TauOption,
    TeacherOption,
    ThetaOption,
    ThresholdOption,
    mistakes_told,
)
from visreplay.tasks.viewer import view
from visreplay.tools import ImageStore

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
app.command()(analyze)
app.command()(calibrate)
app.command()(view)


@app.callback()
def callback() -> None:
    """Agents that think with images, steered by Activation Replay."""


@app.command()
def run(
    media: Annotated[Path, typer.Argument(help="A picture or a clip.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    policy: PolicyOption = None,
    base: BaseOption = None,
    protocol: ProtocolOption = Protocols["auto"],
    method: Annotated[Method, typer.Option(help="How to replay.")] = Method.TOKEN,
    replay_layers: ReplayLayersOption = None,
    state_layers: StateLayersOption = None,
    threshold: ThresholdOption = None,
    tau: TauOption = None,
    theta: ThetaOption = None,
    steps: StepsOption = None,
    learning_rate: LearningRateOption = None,
    optimizer: OptimizerOption = None,
    side: SideOption = None,
    teacher: TeacherOption = None,
    swap_roles: SwapRolesOption = False,
    entry_layer: EntryLayerOption = None,
    device: DeviceOption = "auto",
    base_device: BaseDeviceOption = None,
    dtype: DtypeOption = "auto",
    processor: ProcessorOption = None,
    max_steps: Annotated[int | None, typer.Option(help="Policy turns at most.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of a turn at most.")] = 2048,
    temperature: Annotated[float, typer.Option(min=0, help="0 decodes greedily.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of sampling.")] = 0,
    system_prompt: Annotated[
        Path | None, typer.Option(exists=True, help="File: the checkpoint's own system prompt.")
    ] = None,
    user_suffix: Annotated[
        Path | None,
        typer.Option(exists=True, help="File: what the checkpoint expects after a question."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Folder for the trajectory and its images.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Ask one question about one picture or clip."""
    console = Console(stderr=as_json, highlight=False)
    with mistakes_told():
        pair = Checkpoints.of(policy, base, console)
        config = pair.config(
            method,
            theta,
            replay_layers=replay_layers,
            state_layers=state_layers,
            threshold=threshold,
            tau=tau,
            steps=steps,
            learning_rate=learning_rate,
            optimizer=optimizer,
            side=side,
            teacher=teacher,
            swap_roles=swap_roles,
            entry_layer=entry_layer,
        )
        is_video = media.suffix.lower() in VIDEO_SUFFIXES
        agent = VisualAgent.from_pretrained(
            pair.policy,
            pair.base,
            protocol=pair.protocol(protocol, is_video),
            config=config,
            device=device,
            base_device=base_device,
            dtype=dtype,
            processor=processor,
            store=ImageStore(save / "images") if save else None,
            protocol_options={
                name: path.read_text("utf-8")
                for name, path in (("system_prompt", system_prompt), ("user_suffix", user_suffix))
                if path
            },
            sampling=Sampling(temperature, max_new_tokens=max_new_tokens),
            limits=Limits(max_steps),
            names=pair.names,
        )
        state = agent.start(
            question,
            images=[] if is_video else [media],
            video=media if is_video else None,
            seed=seed,
        )
        for event in agent.stream(state):
            for step in completed(event, state):
                print_step(console, step)
            state = event
        trajectory = agent.trajectory(state)
    if save:
        path = trajectory.save(save, agent.store)
        console.print(f"[dim]saved {path}[/]")
    if as_json:
        print(json.dumps(public_record(trajectory), ensure_ascii=False))
    else:
        verdict = trajectory.answer if trajectory.answer is not None else "no answer"
        console.print(f"[bold]{escape(verdict)}[/] [dim]({trajectory.stop_reason})[/]")


def public_record(trajectory: Trajectory) -> dict[str, Any]:
    """What `--json` prints: the record without the conversation's tokens."""
    record = trajectory.to_json()
    fields = ("answer", "stop_reason", "policy", "base", "protocol", "seed", "steps", "settings")
    return {name: record[name] for name in fields}


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the page and the numbers go.")] = Path(
        "runs/demo"
    ),
    samples: Annotated[int, typer.Option(min=1, help="Held-out samples a task.")] = 50,
) -> None:
    """Run the main job on the embedded pair: two episodes, a table, a page."""
    from visreplay.tasks.demo import run_demo

    run_demo(out, samples)


def main() -> None:
    """Entry point of the command."""
    app()
