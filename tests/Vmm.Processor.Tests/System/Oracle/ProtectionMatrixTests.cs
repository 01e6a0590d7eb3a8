using System.Diagnostics;
using System.Text;
using Vmm.Processor.Events;
using Vmm.Processor.Segmentation;
using Vmm.Processor.State;
using Vmm.Processor.Vmx;
using Vmm.Testing;
using Xunit;

namespace Vmm.Processor.Tests.SystemInstructions.Oracle;

/// <summary>Our processor and Debian's Bochs and QEMU agree on what every instruction does with every kind of descriptor.</summary>
public sealed class ProtectionMatrixTests
{
    [Fact]
    public void EveryTrialComesToAnEnd()
    {
        string[] lines = RunOurs();
        Assert.Equal(ProtectionMatrix.Trials.Count, lines.Length);
    }

    /// <summary>
    /// Bochs 2.7 differs in one column: LAR of a segment descriptor also returns bits 19:16 of the limit, which the manual leaves
    /// undefined (SDM volume 2, LAR: the mask is 00F?FF00h).
    /// </summary>
    [RequiresPackageFact("bochs")]
    public void AgreesWithBochs() => Compare(RunBochs(), (trial, columns) =>
    {
        if (ProtectionMatrix.Operations[trial.Operation] == "lar" && trial.Type >= 16)
            columns[ColumnEax] &= ~0xF_0000UL;
    });

    /// <summary>
    /// QEMU 7.2 differs in two: its exceptions push RFLAGS with RF clear (SDM volume 3, section 18.3.1.1: faults set it), and its
    /// far transfers leave the accessed bit of a code descriptor alone (section 3.4.5.1: a load sets it).
    /// </summary>
    [RequiresPackageFact("qemu-system-x86")]
    public void AgreesWithQemu() => Compare(RunQemu(), (trial, columns) =>
    {
        columns[ColumnFlags] &= ~Rflags.Rf;
        if (trial.Type >= 24 && ProtectionMatrix.Operations[trial.Operation] is ("jmp far" or "call far" or "retf" or "iret"))
            columns[ColumnDescriptor] &= ~0x100UL;
    });

    private const int ColumnFlags = 4, ColumnEax = 5, ColumnDescriptor = 11;

    private static void Compare(string[] theirs, Action<ProtectionMatrix.Trial, ulong[]> reconcile)
    {
        string[] ours = RunOurs();
        var report = new StringBuilder();
        int differences = 0;
        for (int k = 0; k < ProtectionMatrix.Trials.Count; k++)
        {
            ProtectionMatrix.Trial trial = ProtectionMatrix.Trials[k];
            string other = k < theirs.Length ? theirs[k] : "";
            if (Columns(ours[k]).SequenceEqual(Columns(other)))
                continue;
            if (differences++ < 50)
                report.AppendLine($"{trial}\n  ours   {ours[k]}\n  theirs {other}");

            ulong[] Columns(string line)
            {
                ulong[] columns = [.. line.Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(each => Convert.ToUInt64(each, 16))];
                if (columns.Length > ColumnDescriptor)
                    reconcile(trial, columns);
                return columns;
            }
        }
        Assert.True(differences == 0, $"{differences} of {ours.Length} trials differ\n{report}");
    }

    private static unsafe string[] RunOurs()
    {
        using var guest = new TestGuest();
        guest.Write(ProtectionMatrix.Origin, ProtectionMatrix.Build());
        guest.EnterProtectedMode(ProtectionMatrix.Origin);
        while (true)
        {
            ExitReason reason = guest.Run(1_000_000);
            if (reason == ExitReason.Hlt)
                break;
            if (reason == ExitReason.BudgetExhausted)
                continue;
            Assert.True(reason == ExitReason.TaskSwitch, $"{reason} at {guest.State->Rip:x} after {guest.Bus.PortWrites.Count} bytes");
            Assert.Equal(TaskSwitchResult.Done, TaskSwitch.Perform(guest.Cpu, guest.Vmcs, out GuestEvent? inject));
            if (inject is not { } e)
                continue;
            guest.Vmcs[VmcsField.VmEntryInterruptionInformation] = e.Information;
            guest.Vmcs[VmcsField.VmEntryExceptionErrorCode] = e.Error;
        }
        return Lines(Encoding.ASCII.GetString([.. guest.Bus.PortWrites.Where(w => w.Port == 0x3F8).Select(w => (byte)w.Value)]));
    }

    private static string[] RunQemu() => WithDisk(folder => Run("qemu-system-x86",
        ["-accel", "tcg", "-cpu", "max", "-m", "16", "-display", "none", "-nodefaults", "-no-reboot", "-serial", $"file:{folder}/com1",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-drive", $"file={folder}/disk,format=raw,if=ide"], null));

    private static string[] RunBochs() => WithDisk(folder =>
    {
        // Few instructions per second of simulated time, so that the simulated UART is quick.
        File.WriteAllText($"{folder}/bochsrc", $"""
            config_interface: textconfig
            display_library: rfb, options="timeout=0"
            memory: guest=16, host=16
            romimage: file=/usr/share/seabios/bios.bin
            vgaromimage: file=/usr/share/seabios/vgabios-isavga.bin
            cpu: model=corei7_sandy_bridge_2600k, count=1, ips=1000000, reset_on_triple_fault=0
            clock: sync=none
            plugin_ctrl: speaker=0, gameport=0
            ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
            ata0-master: type=disk, path="{folder}/disk", mode=flat, cylinders={new FileInfo($"{folder}/disk").Length / (16 * 63 * 512)}, heads=16, spt=63
            boot: disk
            com1: enabled=1, mode=file, dev={folder}/com1
            log: {folder}/log
            panic: action=fatal
            error: action=ignore
            info: action=ignore
            debug: action=ignore

            """);
        // Debian builds Bochs with its debugger, which waits for "c" (continue).
        Run("bochs", ["-q", "-f", $"{folder}/bochsrc"], "c\n");
    });

    private static string[] WithDisk(Action<string> run)
    {
        string folder = Directory.CreateTempSubdirectory("vmm-oracle-").FullName;
        try
        {
            File.WriteAllBytes($"{folder}/disk", ProtectionMatrix.BuildDisk());
            run(folder);
            return File.Exists($"{folder}/com1") ? Lines(File.ReadAllText($"{folder}/com1")) : [];
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static void Run(string package, string[] arguments, string? input)
    {
        string program = DebianTool.Find(package)!;
        if (package == "bochs" && File.Exists(program + "-bin"))
            program += "-bin";
        var start = new ProcessStartInfo(program) { RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true };
        foreach (string argument in arguments)
            start.ArgumentList.Add(argument);
        using Process process = Process.Start(start)!;
        process.OutputDataReceived += (_, _) => { };
        process.ErrorDataReceived += (_, _) => { };
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
        if (input is not null)
            process.StandardInput.Write(input);
        process.StandardInput.Close();
        if (process.WaitForExit(TimeSpan.FromMinutes(3)))
            return;
        process.Kill();
        process.WaitForExit();
    }

    // Firmware writes to the port too, before the guest's first line, which begins with a vector in hexadecimal.
    private static string[] Lines(string text)
    {
        string[] lines = text.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        return [.. lines.Where(line => line.Count(c => c == ' ') == 17).Select(line => line.Trim())];
    }
}
