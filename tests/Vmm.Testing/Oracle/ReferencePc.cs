using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text;
using Iced.Intel;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Vmm.Testing.Oracle;

/// <summary>Debian's Bochs and QEMU as the PCs that bare guests are booted on, and the comparison with what they print there.</summary>
public static partial class ReferencePc
{
    /// <summary>A disk whose boot sector loads a guest of at most half a megabyte and enters it at its first byte, in flat protected mode.</summary>
    public static byte[] BuildDisk(byte[] image, uint origin)
    {
        const int ChunkSectors = 64;
        int chunks = (image.Length + ChunkSectors * 512 - 1) / (ChunkSectors * 512);
        const uint Packet = 0x7D80, Table = 0x7DA0, TableRegister = 0x7DC0;
        var a = new Assembler(16);
        Label load = a.CreateLabel(), failed = a.CreateLabel(), flat = a.CreateLabel();
        a.xor(ax, ax);
        a.mov(ds, ax);
        a.mov(es, ax);
        a.mov(ss, ax);
        a.mov(sp, 0x7C00);
        a.mov(bp, (short)chunks);
        a.Label(ref load);
        a.mov(si, (short)Packet);
        a.mov(ah, 0x42);
        a.@int(0x13);
        a.jc(failed);
        a.add(__word_ptr[Packet + 6], ChunkSectors * 32);
        a.add(__word_ptr[Packet + 8], ChunkSectors);
        a.dec(bp);
        a.jnz(load);
        a.cli();
        a.@in(al, 0x92);
        a.or(al, 2);
        a.@out(0x92, al);
        a.lgdt(__[TableRegister]);
        a.mov(eax, cr0);
        a.or(al, 1);
        a.mov(cr0, eax);
        // JMP 8:0x7D00
        a.db(0xEA, 0x00, 0x7D, 0x08, 0x00);
        a.Label(ref failed);
        a.hlt();
        a.jmp(failed);
        var b = new Assembler(32);
        b.mov(ax, 0x10);
        b.mov(ds, ax);
        b.mov(es, ax);
        b.mov(ss, ax);
        b.mov(esi, 0x1_0000);
        b.mov(edi, origin);
        b.mov(ecx, chunks * ChunkSectors * 128);
        b.rep.movsd();
        b.mov(eax, origin);
        b.jmp(eax);

        int cylinder = 16 * 63 * 512;
        int bytes = 512 + chunks * ChunkSectors * 512;
        var disk = new byte[(bytes + cylinder - 1) / cylinder * cylinder];
        Emit(a, 0x7C00).CopyTo(disk, 0);
        Emit(b, 0x7D00).CopyTo(disk, 0x100);
        MemoryMarshal.AsBytes<ushort>([16, ChunkSectors, 0, 0x1000, 1, 0, 0, 0]).CopyTo(disk.AsSpan((int)(Packet - 0x7C00)));
        MemoryMarshal.AsBytes<ulong>([0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF]).CopyTo(disk.AsSpan((int)(Table - 0x7C00)));
        MemoryMarshal.AsBytes<ushort>([23, (ushort)Table, 0]).CopyTo(disk.AsSpan((int)(TableRegister - 0x7C00)));
        disk[510] = 0x55;
        disk[511] = 0xAA;
        image.CopyTo(disk, 512);
        return disk;
    }

    /// <summary>Boots a disk on QEMU's own translator and returns the guest's lines.</summary>
    public static string[] RunQemu(byte[] disk, int columns) => WithDisk(disk, columns, folder => Run("qemu-system-x86",
        ["-accel", "tcg", "-cpu", "max", "-m", "16", "-display", "none", "-nodefaults", "-no-reboot", "-serial", $"file:{folder}/com1",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-drive", $"file={folder}/disk,format=raw,if=ide"], null));

    /// <summary>Boots a disk on one of Bochs's processor models and returns the guest's lines.</summary>
    public static string[] RunBochs(byte[] disk, string model, int columns) => WithDisk(disk, columns, folder =>
    {
        // Few instructions per second of simulated time, so that the simulated UART is quick.
        File.WriteAllText($"{folder}/bochsrc", $"""
            config_interface: textconfig
            display_library: rfb, options="timeout=0"
            memory: guest=16, host=16
            romimage: file=/usr/share/seabios/bios.bin
            vgaromimage: file=/usr/share/seabios/vgabios-isavga.bin
            cpu: model={model}, count=1, ips=1000000, reset_on_triple_fault=0
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

    private static string[] WithDisk(byte[] disk, int columns, Action<string> run)
    {
        string folder = Directory.CreateTempSubdirectory("vmm-oracle-").FullName;
        try
        {
            File.WriteAllBytes($"{folder}/disk", disk);
            run(folder);
            return File.Exists($"{folder}/com1") ? Lines(File.ReadAllText($"{folder}/com1"), columns) : [];
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

    /// <summary>
    /// The guest's lines of what was written to COM1. Firmware writes to the port too, before the guest's first line; only the
    /// guest's are hexadecimal numbers, a blank after each.
    /// </summary>
    public static string[] Lines(string text, int columns) =>
    [
        .. text.Split('\n', StringSplitOptions.RemoveEmptyEntries)
            .Where(line => line.Count(c => c == ' ') == columns && line.All(c => c == ' ' || char.IsAsciiHexDigitLower(c) || char.IsAsciiDigit(c)))
            .Select(line => line.Trim()),
    ];

    /// <summary>Each trial gave the same line on both, after what differs legitimately was taken out of the columns of both.</summary>
    public static void AssertAgreement<T>(IReadOnlyList<T> trials, string[] ours, string[] theirs, Action<T, ulong[]> reconcile)
    {
        Assert.Equal(trials.Count, ours.Length);
        var report = new StringBuilder();
        int differences = 0;
        for (int k = 0; k < trials.Count; k++)
        {
            T trial = trials[k];
            string other = k < theirs.Length ? theirs[k] : "";
            if (Columns(ours[k]).SequenceEqual(Columns(other)))
                continue;
            if (differences++ < 50)
                report.AppendLine($"{trial}\n  ours   {ours[k]}\n  theirs {other}");

            ulong[] Columns(string line)
            {
                ulong[] columns = [.. line.Split(' ', StringSplitOptions.RemoveEmptyEntries).Select(each => Convert.ToUInt64(each, 16))];
                if (columns.Length > 0)
                    reconcile(trial, columns);
                return columns;
            }
        }
        Assert.True(differences == 0, $"{differences} of {ours.Length} trials differ\n{report}");
    }

    private static byte[] Emit(Assembler assembler, ulong at)
    {
        using var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), at);
        return stream.ToArray();
    }
}
