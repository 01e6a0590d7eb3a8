using System.Globalization;

namespace Vmm.Processor.Vmx;

/// <summary>VM-exit information in the manual's words (SDM volume 3, appendix C, and sections 28.2.1 and 25.9).</summary>
public static class ExitDecode
{
    private const uint EntryFailure = 1u << 31, Valid = 1u << 31, HasErrorCode = 1 << 11, NmiUnblocked = 1 << 12;

    private static readonly string?[] Reasons =
    [
        "Exception or non-maskable interrupt (NMI)", "External interrupt", "Triple fault", "INIT signal", "Start-up IPI (SIPI)",
        "I/O system-management interrupt (SMI)", "Other SMI", "Interrupt window", "NMI window", "Task switch", "CPUID", "GETSEC", "HLT",
        "INVD", "INVLPG", "RDPMC", "RDTSC", "RSM", "VMCALL", "VMCLEAR", "VMLAUNCH", "VMPTRLD", "VMPTRST", "VMREAD", "VMRESUME", "VMWRITE",
        "VMXOFF", "VMXON", "Control-register accesses", "MOV DR", "I/O instruction", "RDMSR", "WRMSR",
        "VM-entry failure due to invalid guest state", "VM-entry failure due to MSR loading", null, "MWAIT", "Monitor trap flag", null,
        "MONITOR", "PAUSE", "VM-entry failure due to machine-check event", null, "TPR below threshold", "APIC access", "Virtualized EOI",
        "Access to GDTR or IDTR", "Access to LDTR or TR", "EPT violation", "EPT misconfiguration", "INVEPT", "RDTSCP",
        "VMX-preemption timer expired", "INVVPID", "WBINVD or WBNOINVD", "XSETBV", "APIC write", "RDRAND", "INVPCID", "VMFUNC", "ENCLS",
        "RDSEED", "Page-modification log full", "XSAVES", "XRSTORS", "PCONFIG", "SPP-related event", "UMWAIT", "TPAUSE", "LOADIWKEY",
        "ENCLV", null, "ENQCMD PASID translation failure", "ENQCMDS PASID translation failure", "Bus lock", "Instruction timeout",
    ];

    private static readonly string[] Registers =
        ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"];

    private static readonly string[] Exceptions =
        ["#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9", "#TS", "#NP", "#SS", "#GP", "#PF", "15", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP"];

    /// <summary>How many basic exit reasons the manual has; those above it are not of the manual.</summary>
    public static int ReasonCount => Reasons.Length;

    /// <summary>The name of an exit reason in the manual; of the whole field or of its low 16 bits.</summary>
    public static string Reason(uint reason) => (reason & 0xFFFF) switch
    {
        var basic when basic < Reasons.Length && Reasons[basic] is { } name => name,
        (uint)ExitReason.VmFailValid => "No VM entry: invalid controls or host state",
        (uint)ExitReason.VmxAbort => "VMX abort",
        (uint)ExitReason.BudgetExhausted => "L0 wanted the processor back",
        var basic => string.Create(CultureInfo.InvariantCulture, $"Reserved {basic}"),
    };

    /// <summary>
    /// The basic exit reason that someone means: by its number, or by the manual's name or a part of it that no other has. Letters may be
    /// small, and what is neither letter nor digit does not count: <c>ept-violation</c> is EPT violation.
    /// </summary>
    /// <returns>Whether there is exactly one.</returns>
    public static bool TryFindReason(string text, out uint reason)
    {
        if (uint.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out reason))
            return reason < ReasonCount && Reasons[reason] != null;
        string wanted = Letters(text);
        Func<string, bool>[] rules = [name => name == wanted, name => name.StartsWith(wanted, StringComparison.Ordinal), name => name.Contains(wanted, StringComparison.Ordinal)];
        foreach (Func<string, bool> rule in rules)
        {
            uint[] found = [.. Enumerable.Range(0, ReasonCount).Where(n => Reasons[n] is { } name && rule(Letters(name))).Select(n => (uint)n)];
            if (found.Length == 0 || wanted.Length == 0)
                continue;
            reason = found[0];
            return found.Length == 1;
        }
        return false;

        static string Letters(string text) => new([.. text.Where(char.IsAsciiLetterOrDigit).Select(char.ToLowerInvariant)]);
    }

    /// <summary>Whether the exit is a VM-entry failure.</summary>
    public static bool IsEntryFailure(uint reason) => (reason & EntryFailure) != 0;

    /// <summary>What the qualification says for a reason; empty where it says nothing that its value does not.</summary>
    public static string Qualification(uint reason, ulong qualification) => (ExitReason)(reason & 0xFFFF) switch
    {
        ExitReason.ControlRegister => ControlRegister(qualification),
        ExitReason.MovDr => (qualification & 16) == 0
            ? $"MOV DR{qualification & 7}, {Registers[qualification >> 8 & 15]}"
            : $"MOV {Registers[qualification >> 8 & 15]}, DR{qualification & 7}",
        ExitReason.IoInstruction => Port(qualification),
        ExitReason.EptViolation => EptViolation(qualification),
        ExitReason.TaskSwitch => $"{(qualification >> 30 & 3) switch { 0 => "CALL", 1 => "IRET", 2 => "JMP", _ => "task gate" }} to TSS selector 0x{qualification & 0xFFFF:x}",
        ExitReason.ApicAccess => $"{(qualification >> 12 & 15) switch { 0 => "read", 1 => "write", 2 => "fetch", 3 => "access by event delivery", _ => "physical access" }} at offset 0x{qualification & 0xFFF:x}",
        ExitReason.ApicWrite => $"write to offset 0x{qualification & 0xFFF:x}",
        ExitReason.VirtualizedEoi or ExitReason.Sipi => $"vector 0x{qualification & 0xFF:x}",
        ExitReason.Invlpg => $"linear address 0x{qualification:x}",
        _ => "",
    };

    /// <summary>An interruption-information field in words; empty where it is not valid.</summary>
    public static string Interruption(uint information)
    {
        if ((information & Valid) == 0)
            return "";
        uint vector = information & 0xFF;
        string what = (EventType)(information >> 8 & 7) switch
        {
            EventType.ExternalInterrupt => $"external interrupt 0x{vector:x}",
            EventType.Nmi => "NMI",
            EventType.HardwareException or EventType.SoftwareException => vector < Exceptions.Length ? Exceptions[vector] : $"exception 0x{vector:x}",
            EventType.SoftwareInterrupt => $"INT 0x{vector:x}",
            EventType.PrivilegedSoftwareException => "INT1",
            EventType.Other => vector == 0 ? "pending MTF exit" : $"other event {vector}",
            _ => $"reserved type, vector 0x{vector:x}",
        };
        return $"{what}{((information & HasErrorCode) != 0 ? ", error code" : "")}{((information & NmiUnblocked) != 0 ? ", NMI unblocked by IRET" : "")}";
    }

    private static string ControlRegister(ulong qualification)
    {
        string register = Registers[qualification >> 8 & 15];
        ulong number = qualification & 15;
        return (qualification >> 4 & 3) switch
        {
            0 => $"MOV CR{number}, {register}",
            1 => $"MOV {register}, CR{number}",
            2 => "CLTS",
            _ => $"LMSW 0x{qualification >> 16 & 0xFFFF:x}",
        };
    }

    private static string Port(ulong qualification)
    {
        string verb = ((qualification & 8) != 0, (qualification & 16) != 0) switch
        {
            (true, false) => "IN",
            (true, true) => "INS",
            (false, false) => "OUT",
            _ => "OUTS",
        };
        return $"{((qualification & 32) != 0 ? "REP " : "")}{verb} port 0x{qualification >> 16 & 0xFFFF:x}, {(qualification & 7) + 1} bytes";
    }

    private static string EptViolation(ulong qualification)
    {
        var parts = new List<string>();
        foreach ((int bit, string name) in new[] { (0, "read"), (1, "write"), (2, "fetch") })
            if ((qualification >> bit & 1) != 0)
                parts.Add(name);
        ulong rights = qualification >> 3 & 7;
        string page = rights == 0 ? "not present" : $"{((rights & 1) != 0 ? "r" : "-")}{((rights & 2) != 0 ? "w" : "-")}{((rights & 4) != 0 ? "x" : "-")}";
        string what = (qualification >> 7 & 3) switch { 3 => ", of the translated address", 1 => ", of a paging structure", _ => "" };
        return $"{string.Join('+', parts)}, page {page}{what}";
    }
}
