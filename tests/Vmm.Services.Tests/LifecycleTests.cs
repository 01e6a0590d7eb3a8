using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Vmm.Machine;
using Vmm.V1;
using Xunit;

namespace Vmm.Services.Tests;

public sealed class LifecycleTests : ServerTest
{
    [Fact]
    public async Task A_vm_is_created_started_paused_resumed_reset_stopped_and_deleted()
    {
        Vm vm = await CreateAsync("web-1");
        Assert.Equal("projects/default/vms/web-1", vm.Name);
        Assert.Equal(VmState.Stopped, vm.Status.State);
        Assert.Equal(1, vm.Spec.Cpus);
        Assert.Equal(Clock.RealTime, vm.Spec.Clock);
        Assert.Equal(1UL, vm.Spec.Seed);
        Assert.NotEmpty(vm.Uid);

        vm = await Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
        Assert.Equal(VmState.Running, vm.Status.State);
        Assert.Equal(1, vm.Status.RunCount);
        FakeMachine machine = Factory.Last;
        Assert.Equal(MachineRunState.Running, machine.RunState);
        Assert.Equal(64UL << 20, machine.Spec.MemoryBytes);
        Assert.Equal(Kernel, machine.Spec.KernelPath);

        Assert.Equal(VmState.Paused, (await Vms.PauseVmAsync(new PauseVmRequest { Name = vm.Name })).Status.State);
        Assert.Equal(MachineRunState.Paused, machine.RunState);
        Assert.Equal(VmState.Running, (await Vms.ResumeVmAsync(new ResumeVmRequest { Name = vm.Name })).Status.State);
        Assert.Equal(1, (await Vms.ResetVmAsync(new ResetVmRequest { Name = vm.Name })).Status.ResetCount);
        await Vms.InjectNmiAsync(new InjectNmiRequest { Name = vm.Name });
        Assert.Equal([0], machine.Nmis);
        Vm now = await Vms.GetVmAsync(new GetVmRequest { Name = vm.Name });
        Assert.Equal(42UL, now.Status.InstructionsRetired);
        Assert.Equal(64UL << 20, now.Status.MemoryBytes);

        vm = await Vms.StopVmAsync(new StopVmRequest { Name = vm.Name });
        Assert.Equal(VmState.Stopped, vm.Status.State);
        Assert.Equal(VmEndReason.PowerOff, vm.Status.End.Reason);
        Assert.Equal(0, vm.Status.End.ExitCode);
        Assert.Equal(0UL, vm.Status.MemoryBytes);
        Assert.True(machine.Disposed);

        await Vms.DeleteVmAsync(new DeleteVmRequest { Name = vm.Name });
        await FailsAsync(StatusCode.NotFound, "NOT_FOUND", Vms.GetVmAsync(new GetVmRequest { Name = vm.Name }));
    }

    [Theory]
    [InlineData(MachineEndReason.PowerOff, 0, VmEndReason.PowerOff, 0)]
    [InlineData(MachineEndReason.DebugExit, 33, VmEndReason.DebugExit, 33)]
    [InlineData(MachineEndReason.TripleFault, 126, VmEndReason.TripleFault, 126)]
    [InlineData(MachineEndReason.Failed, 0, VmEndReason.Failed, 125)]
    public async Task The_guests_own_end_is_told(MachineEndReason reason, int code, VmEndReason told, int toldCode)
    {
        Vm vm = await StartAsync();
        Factory.Last.Finish(reason, code, "why");
        await EventuallyAsync(() => Vms.GetVm(new GetVmRequest { Name = vm.Name }).Status.State == VmState.Stopped, "the stop");
        VmEnd end = (await Vms.GetVmAsync(new GetVmRequest { Name = vm.Name })).Status.End;
        Assert.Equal((told, toldCode, "why"), (end.Reason, end.ExitCode, end.Detail));
        vm = await Vms.StartVmAsync(new StartVmRequest { Name = vm.Name });
        Assert.Null(vm.Status.End);
        Assert.Equal(2, vm.Status.RunCount);
    }

    [Fact]
    public async Task A_guest_that_ignores_the_button_loses_its_plug_after_the_grace_period()
    {
        Factory.PowersOffOnButton = false;
        Vm vm = await StartAsync();
        Task<Vm> stop = Vms.StopVmAsync(new StopVmRequest { Name = vm.Name, GracePeriod = Duration.FromTimeSpan(TimeSpan.FromMinutes(1)) }).ResponseAsync;
        await EventuallyAsync(() => Factory.Last.ButtonPresses == 1 && Time.WaitingFor(TimeSpan.FromMinutes(1)) > 0, "the button");
        Assert.Equal(VmState.Stopping, (await Vms.GetVmAsync(new GetVmRequest { Name = vm.Name })).Status.State);
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.PauseVmAsync(new PauseVmRequest { Name = vm.Name }));
        Time.Advance(TimeSpan.FromSeconds(59));
        Assert.False(stop.IsCompleted);
        Time.Advance(TimeSpan.FromSeconds(1));
        Assert.Equal(VmEndReason.Stopped, (await stop).Status.End.Reason);
        Assert.Equal(137, (await stop).Status.End.ExitCode);
    }

    [Fact]
    public async Task A_forced_stop_cuts_a_graceful_one_short()
    {
        Factory.PowersOffOnButton = false;
        Vm vm = await StartAsync();
        await Vms.PauseVmAsync(new PauseVmRequest { Name = vm.Name });
        Task<Vm> graceful = Vms.StopVmAsync(new StopVmRequest { Name = vm.Name }).ResponseAsync;
        await EventuallyAsync(() => Factory.Last.ButtonPresses == 1, "the button");
        await Vms.StopVmAsync(new StopVmRequest { Name = vm.Name, Force = true });
        Assert.Equal(VmEndReason.Stopped, (await graceful).Status.End.Reason);
    }

    [Fact]
    public async Task What_a_state_does_not_allow_is_a_failed_precondition_and_changes_nothing()
    {
        Vm vm = await CreateAsync();
        string name = vm.Name;
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.StopVmAsync(new StopVmRequest { Name = name }));
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.PauseVmAsync(new PauseVmRequest { Name = name }));
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.ResumeVmAsync(new ResumeVmRequest { Name = name }));
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.ResetVmAsync(new ResetVmRequest { Name = name }));
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.InjectNmiAsync(new InjectNmiRequest { Name = name }));
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.AddVcpuAsync(new AddVcpuRequest { Name = name }));
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.GetRegistersAsync(new GetRegistersRequest { Name = name }));
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.ReadMemoryAsync(new ReadMemoryRequest { Name = name, Length = 1 }));
        Assert.Equal(vm, await Vms.GetVmAsync(new GetVmRequest { Name = name }));
        await Vms.StartVmAsync(new StartVmRequest { Name = name });
        var error = await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.StartVmAsync(new StartVmRequest { Name = name }));
        Assert.Equal("RUNNING", error.Metadata["state"]);
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.ResumeVmAsync(new ResumeVmRequest { Name = name }));
        await FailsAsync(StatusCode.FailedPrecondition, "ILLEGAL_STATE", Vms.DeleteVmAsync(new DeleteVmRequest { Name = name }));
        await Vms.DeleteVmAsync(new DeleteVmRequest { Name = name, Force = true });
        Assert.True(Factory.Last.Disposed);
    }

    [Fact]
    public async Task A_kernel_that_cannot_boot_leaves_the_vm_stopped()
    {
        await File.WriteAllTextAsync(Kernel, "broken");
        Vm vm = await CreateAsync();
        var error = await FailsAsync(StatusCode.FailedPrecondition, "CANNOT_BOOT", Vms.StartVmAsync(new StartVmRequest { Name = vm.Name }));
        Assert.Equal("vm.spec.kernel", error.Preconditions[0].Subject);
        Assert.Equal(VmState.Stopped, (await Vms.GetVmAsync(new GetVmRequest { Name = vm.Name })).Status.State);
        File.Delete(Kernel);
        await FailsAsync(StatusCode.FailedPrecondition, "FILE_UNAVAILABLE", Vms.StartVmAsync(new StartVmRequest { Name = vm.Name }));
        await File.WriteAllTextAsync(Kernel, "bug");
        await FailsAsync(StatusCode.Internal, "INTERNAL", Vms.StartVmAsync(new StartVmRequest { Name = vm.Name }));
        await File.WriteAllTextAsync(Kernel, "kernel");
        Assert.Equal(VmState.Running, (await Vms.StartVmAsync(new StartVmRequest { Name = vm.Name })).Status.State);
    }

    [Fact]
    public async Task Memory_and_registers_are_read_and_written()
    {
        Vm vm = await StartAsync();
        byte[] data = [.. Enumerable.Range(0, 256).Select(i => (byte)i)];
        await Vms.WriteMemoryAsync(new WriteMemoryRequest { Name = vm.Name, Address = 0x1000, Data = ByteString.CopyFrom(data) });
        ReadMemoryResponse read = await Vms.ReadMemoryAsync(new ReadMemoryRequest { Name = vm.Name, AddressSpace = AddressSpace.Virtual, Address = 0x1000, Length = 256 });
        Assert.Equal(data, read.Data.ToByteArray());
        await FailsAsync(StatusCode.OutOfRange, "ADDRESS_NOT_MAPPED", Vms.ReadMemoryAsync(new ReadMemoryRequest { Name = vm.Name, Address = 0xFFFF, Length = 2 }));
        await FailsAsync(StatusCode.OutOfRange, "ADDRESS_NOT_MAPPED", Vms.WriteMemoryAsync(new WriteMemoryRequest { Name = vm.Name, Address = ulong.MaxValue, Data = ByteString.CopyFrom(1) }));
        Vmm.V1.VcpuRegisters registers = await Vms.GetRegistersAsync(new GetRegistersRequest { Name = vm.Name });
        Assert.Equal(16, registers.GeneralPurpose.Count);
        Assert.Equal(0xD01UL, registers.Msrs["EFER"]);
        Assert.Equal("CS", registers.Segments[0].Name);
        Assert.Equal(ulong.MaxValue, registers.Xmm[15].High);
        await FailsAsync(StatusCode.InvalidArgument, "INVALID_FIELD", Vms.GetRegistersAsync(new GetRegistersRequest { Name = vm.Name, Vcpu = 1 }));
    }

    [Fact]
    public async Task A_server_that_goes_down_stops_its_vms_and_keeps_them()
    {
        Vm vm = await StartAsync();
        FakeMachine machine = Factory.Last;
        await CloseAsync();
        Assert.True(machine.Disposed);
        await OpenAsync();
        Vm kept = await Vms.GetVmAsync(new GetVmRequest { Name = vm.Name });
        Assert.Equal(VmState.Stopped, kept.Status.State);
        Assert.Equal(VmEndReason.Stopped, kept.Status.End.Reason);
        Assert.Equal(vm.Uid, kept.Uid);
        Assert.Equal(VmState.Running, (await Vms.StartVmAsync(new StartVmRequest { Name = vm.Name })).Status.State);
    }
}
