using System.Buffers.Binary;
using System.Text;
using Vmm.Devices.Board;
using Vmm.Processor.Memory;

namespace Vmm.Machine.Boot;

/// <summary>
/// The part of the firmware that the guest's processors execute: what is at the reset vector, and handlers for the interrupts
/// that a PC's firmware takes before an operating system does. The same 64 KiB are in RAM at 0xF0000, where the vectors point,
/// and in the chip below 4 GiB, where processors begin. The entry points have the addresses of the IBM PC AT's BIOS.
/// </summary>
/// <remarks>
/// Who comes to the reset vector has had an INIT or jumped there, since after a hard reset the machine itself loads the kernel
/// and enters it. The byte 0x0F of CMOS memory, the shutdown code, says what for: 5 and 0x0A go on at the far pointer at
/// 40:67, the former after an end of interrupt. With any other code the firmware begins anew, by a hard reset, and bit 0 of
/// port 0x92 then stays as the INIT left it.
/// </remarks>
internal static class FirmwareImage
{
    /// <summary>The length of the image.</summary>
    public const int Size = 0x1_0000;

    /// <summary>Where the chip is.</summary>
    public const ulong RomBase = 0xFFFF_0000;

    private const ulong ShadowBase = 0xF_0000;
    private const ushort Segment = 0xF000;

    private const int PostEntry = 0xE05B;
    private const int TimerEntry = 0xFEA5;
    private const int ReturnEntry = 0xFF53;
    private const int MasterEntry = 0xFF60;
    private const int SlaveEntry = 0xFF70;
    private const int HandOver = 0xFFE0;
    private const int ResetVector = 0xFFF0;
    private const int Date = 0xFFF5;
    private const int Model = 0xFFFE;

    private const ulong BiosData = 0x400;

    /// <summary>Where a processor goes after INIT, and what jumps to FFFF:0000.</summary>
    private static ReadOnlySpan<byte> Post =>
    [
        0xFA,                                       // cli
        0xFC,                                       // cld
        0xB0, 0x0F,                                 // mov al, 0x0F
        0xE6, 0x70,                                 // out 0x70, al
        0xE4, 0x71,                                 // in al, 0x71              the shutdown code
        0x88, 0xC4,                                 // mov ah, al
        0x30, 0xC0,                                 // xor al, al
        0xE6, 0x71,                                 // out 0x71, al             it counts once
        0x80, 0xFC, 0x05,                           // cmp ah, 5
        0x74, 0x1D,                                 // je acknowledge
        0x80, 0xFC, 0x0A,                           // cmp ah, 0x0A
        0x74, 0x1E,                                 // je resume
        0xE4, 0x92,                                 // in al, 0x92
        0x24, 0x01,                                 // and al, 1
        0xB9, 0x00, 0xF0,                           // mov cx, Segment
        0x8E, 0xD9,                                 // mov ds, cx
        0xA2, HandOver & 0xFF, HandOver >> 8,       // mov [HandOver], al
        0xBA, 0xF9, 0x0C,                           // mov dx, 0x0CF9
        0xB0, 0x02,                                 // mov al, 0x02
        0xEE,                                       // out dx, al
        0xB0, 0x06,                                 // mov al, 0x06
        0xEE,                                       // out dx, al               a hard reset
        0xF4,                                       // halt: hlt
        0xEB, 0xFD,                                 // jmp halt
        0xB0, 0x20,                                 // acknowledge: mov al, 0x20
        0xE6, 0xA0,                                 // out 0xA0, al
        0xE6, 0x20,                                 // out 0x20, al
        0x31, 0xC0,                                 // resume: xor ax, ax
        0x8E, 0xD8,                                 // mov ds, ax
        0xFF, 0x2E, 0x67, 0x04,                     // jmp far [0x0467]
    ];

    /// <summary>Interrupt 8: counts the ticks of the day at 40:6C, calls the user's interrupt 0x1C, ends the interrupt.</summary>
    private static ReadOnlySpan<byte> Timer =>
    [
        0x50,                                               // push ax
        0x1E,                                               // push ds
        0x31, 0xC0,                                         // xor ax, ax
        0x8E, 0xD8,                                         // mov ds, ax
        0x66, 0xFF, 0x06, 0x6C, 0x04,                       // inc dword [0x046C]
        0x66, 0x81, 0x3E, 0x6C, 0x04, 0xB0, 0x00, 0x18, 0x00, // cmp dword [0x046C], 0x1800B0    ticks of a day
        0x72, 0x0E,                                         // jb same
        0x66, 0xC7, 0x06, 0x6C, 0x04, 0x00, 0x00, 0x00, 0x00, // mov dword [0x046C], 0
        0xC6, 0x06, 0x70, 0x04, 0x01,                       // mov byte [0x0470], 1             midnight has passed
        0xCD, 0x1C,                                         // same: int 0x1C
        0xFA,                                               // cli                              the user's handler may have enabled
        0xB0, 0x20,                                         // mov al, 0x20
        0xE6, 0x20,                                         // out 0x20, al
        0x1F,                                               // pop ds
        0x58,                                               // pop ax
        0xCF,                                               // iret
    ];

    /// <summary>Any other interrupt of the first 8259.</summary>
    private static ReadOnlySpan<byte> Master =>
    [
        0x50,                                       // push ax
        0xB0, 0x20,                                 // mov al, 0x20
        0xE6, 0x20,                                 // out 0x20, al
        0x58,                                       // pop ax
        0xCF,                                       // iret
    ];

    /// <summary>Any interrupt of the second 8259.</summary>
    private static ReadOnlySpan<byte> Slave =>
    [
        0x50,                                       // push ax
        0xB0, 0x20,                                 // mov al, 0x20
        0xE6, 0xA0,                                 // out 0xA0, al
        0xE6, 0x20,                                 // out 0x20, al
        0x58,                                       // pop ax
        0xCF,                                       // iret
    ];

    /// <summary>What is in the chip. Its reset vector stays in it, whatever has become of the copy in RAM.</summary>
    public static ReadOnlyMemory<byte> Rom { get; } = Build(
    [
        0xE9, (PostEntry - ResetVector - 3) & 0xFF, ((PostEntry - ResetVector - 3) >> 8) & 0xFF, // jmp Post
    ]);

    // In RAM the vector is reached as FFFF:0000 as well as F000:FFF0, so it must say the segment.
    private static ReadOnlyMemory<byte> Shadow { get; } = Build(
    [
        0xEA, PostEntry & 0xFF, PostEntry >> 8, Segment & 0xFF, Segment >> 8, // jmp Segment:Post
    ]);

    /// <summary>Whether the last thing that the firmware's code did was to begin anew while bit 0 of port 0x92 was set.</summary>
    public static bool BeginsAfterInit(PhysicalMemory memory)
    {
        Span<byte> handOver = stackalloc byte[1];
        return memory.TryRead(ShadowBase + HandOver, handOver) && handOver[0] == 1;
    }

    /// <summary>Writes the image, the real-mode interrupt vectors and the BIOS data area.</summary>
    /// <exception cref="InvalidMachineException">There is no RAM there.</exception>
    public static void Install(PhysicalMemory memory)
    {
        Span<byte> low = stackalloc byte[0x500];
        low.Clear();
        for (int vector = 0; vector < 256; vector++)
        {
            int entry = vector switch
            {
                0x08 => TimerEntry,
                > 0x08 and <= 0x0F => MasterEntry,
                >= 0x70 and <= 0x77 => SlaveEntry,
                _ => ReturnEntry,
            };
            BinaryPrimitives.WriteUInt32LittleEndian(low[(vector * 4)..], (uint)Segment << 16 | (uint)entry);
        }
        WriteBiosData(low[(int)BiosData..]);
        // The extended BIOS data area begins with its length in KiB.
        if (!memory.TryWrite(0, low) || !memory.TryWrite(MemoryMap.ConventionalEnd, [1]) || !memory.TryWrite(ShadowBase, Shadow.Span))
            throw new InvalidMachineException(nameof(MachineSpec.MemoryBytes), "A machine needs at least 1 MiB of memory.");
    }

    private static void WriteBiosData(Span<byte> data)
    {
        void Put(Span<byte> area, int offset, int value) => BinaryPrimitives.WriteUInt16LittleEndian(area[offset..], (ushort)value);
        for (int i = 0; i < BoardLayout.SerialPorts.Count; i++)
            Put(data, i * 2, BoardLayout.SerialPorts[i]);
        Put(data, 0x0E, (int)(MemoryMap.ConventionalEnd >> 4));
        // Equipment: a coprocessor and so many serial ports.
        Put(data, 0x10, 0x02 | BoardLayout.SerialPorts.Count << 9);
        Put(data, 0x13, (int)(MemoryMap.ConventionalEnd >> 10));
        // The keyboard's buffer: where it is, and empty.
        Put(data, 0x1A, 0x1E);
        Put(data, 0x1C, 0x1E);
        Put(data, 0x80, 0x1E);
        Put(data, 0x82, 0x3E);
    }

    private static byte[] Build(ReadOnlySpan<byte> resetVector)
    {
        byte[] image = new byte[Size];
        Post.CopyTo(image.AsSpan(PostEntry));
        Timer.CopyTo(image.AsSpan(TimerEntry));
        image[ReturnEntry] = 0xCF; // iret
        Master.CopyTo(image.AsSpan(MasterEntry));
        Slave.CopyTo(image.AsSpan(SlaveEntry));
        resetVector.CopyTo(image.AsSpan(ResetVector));
        Encoding.ASCII.GetBytes("01/01/26", image.AsSpan(Date));
        // A PC AT.
        image[Model] = 0xFC;
        return image;
    }
}
