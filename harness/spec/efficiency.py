"""What a run cost beside its scores, as one value; docs/efficiency.md defines each number."""

from __future__ import annotations

from pydantic import Field

from harness.common.values import Frozen


class Quantity(Frozen):
    """Repeated measurements: the median with its 95 % confidence interval by order statistics.

    Attributes:
        median: the median.
        low: lower end; with fewer than six measurements the least of them.
        high: upper end; with fewer than six measurements the greatest of them.
        count: how many measurements there are.
    """

    median: float
    low: float
    high: float
    count: int


class Efficiency(Frozen):
    """Speed, memory and size of one run.

    Attributes:
        throughput: images per second of the model alone, by batch size.
        latency: seconds from a single image on the device to its score on the host.
        latency_p99: the 99th percentile of the same.
        end_to_end: images per second from files to scores, reading and predicting at the same time.
        paper_way: images per second at batch 32 from files to maps on the host, one after another.
        training: training images per second, over all epochs.
        memory: peak bytes of ``fit`` and of ``predict`` (one batch): ``host``, on a GPU ``device`` (the
            allocator's) and ``driver`` (what the driver has given away on the whole device).
        growth: bytes that each further batch leaves behind; 0 for a method that does not leak.
        parameters: of the pretrained networks and what was learned.
        state_bytes: bytes of the learned state.
        flops: floating-point operations per image, a multiplication with its addition counted as two.
        energy: joules per 1,000 images at the largest batch, of the whole GPU.
        gpu: clocks in MHz and the temperature in °C at the end, as NVML tells them.
        flags: why these numbers may not be typical: a busy machine, a throttled GPU, growing memory.
        left_out: what was not measured, and why.
    """

    throughput: dict[str, Quantity] = Field(default_factory=dict)
    latency: Quantity | None = None
    latency_p99: float | None = None
    end_to_end: Quantity | None = None
    paper_way: Quantity | None = None
    training: float | None = None
    memory: dict[str, dict[str, int]] = Field(default_factory=dict)
    growth: int = 0
    parameters: int = 0
    state_bytes: int = 0
    flops: int | None = None
    energy: float | None = None
    gpu: dict[str, int] = Field(default_factory=dict)
    flags: list[str] = Field(default_factory=list)
    left_out: list[str] = Field(default_factory=list)
