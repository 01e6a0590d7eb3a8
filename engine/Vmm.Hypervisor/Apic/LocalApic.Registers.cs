namespace Vmm.Hypervisor.Apic;

/// <content>Reading and writing the registers, in memory and as MSRs.</content>
public sealed partial class LocalApic
{
    /// <summary>A read in the register page in xAPIC mode. Registers are 32 bits wide on 16-byte boundaries; other bytes read as zero.</summary>
    /// <param name="offset">Offset in the page.</param>
    /// <param name="size">1, 2, 4 or 8 bytes.</param>
    public ulong ReadMemory(uint offset, int size)
    {
        uint inner = offset & 0xF;
        if (inner > 3)
            return 0;
        if (!IsReadable(offset & 0xFF0) || (offset & 0xFF0) == ApicRegister.SelfIpi)
        {
            RaiseError(ErrorIllegalRegister);
            return 0;
        }
        ulong value = (ulong)ReadRegister(offset & 0xFF0) >> (int)(inner * 8);
        return size >= 8 ? value : value & ((1UL << (size * 8)) - 1);
    }

    /// <summary>A write in the register page in xAPIC mode. Only whole registers can be written (SDM volume 3, section 12.4.1); anything else is dropped.</summary>
    public void WriteMemory(uint offset, int size, ulong value)
    {
        if ((offset & 0xF) != 0 || size < 4)
            return;
        if (!IsWritable(offset) || offset == ApicRegister.SelfIpi)
        {
            RaiseError(ErrorIllegalRegister);
            return;
        }
        switch (offset)
        {
            case ApicRegister.Id or ApicRegister.LogicalDestination:
                Page[offset] = (uint)value & 0xFF00_0000;
                _bus.IdentityChanged?.Invoke();
                break;
            case ApicRegister.DestinationFormat:
                Page[offset] = (uint)value | 0x0FFF_FFFF;
                _bus.IdentityChanged?.Invoke();
                break;
            case ApicRegister.CommandHigh:
                Page[offset] = (uint)value & 0xFF00_0000;
                break;
            case ApicRegister.CommandLow:
                Page[offset] = (uint)value & ~(1u << 12);
                uint destination = Page[ApicRegister.CommandHigh] >> 24;
                bool logical = ((uint)value & 1 << 11) != 0;
                SendCommand((uint)value, destination == 0xFF && !logical ? uint.MaxValue : destination);
                break;
            default:
                WriteShared(offset, (uint)value);
                break;
        }
    }

    /// <summary>RDMSR of 800H to 8FFH. Returns false for #GP.</summary>
    public bool TryReadMsr(uint msr, out ulong value)
    {
        value = 0;
        uint offset = (msr & 0xFF) << 4;
        if (Mode != ApicMode.X2Apic || !IsX2ApicReadable(offset))
            return false;
        value = ReadRegister(offset);
        if (offset == ApicRegister.CommandLow)
            value |= (ulong)Page[ApicRegister.CommandHigh] << 32;
        return true;
    }

    /// <summary>WRMSR of 800H to 8FFH. Returns false, with nothing changed, for #GP.</summary>
    public bool TryWriteMsr(uint msr, ulong value)
    {
        uint offset = (msr & 0xFF) << 4;
        if (Mode != ApicMode.X2Apic || !IsWritable(offset)
            || offset is ApicRegister.Id or ApicRegister.LogicalDestination or ApicRegister.DestinationFormat or ApicRegister.CommandHigh)
            return false;
        if ((value & X2ApicReserved(offset)) != 0)
            return false;
        switch (offset)
        {
            case ApicRegister.CommandLow:
                Page[ApicRegister.CommandLow] = (uint)value;
                Page[ApicRegister.CommandHigh] = (uint)(value >> 32);
                SendCommand((uint)value, (uint)(value >> 32));
                break;
            case ApicRegister.SelfIpi:
                if ((byte)value < 16)
                    RaiseError(ErrorSendIllegalVector);
                else
                    Accept(DeliveryMode.Fixed, (byte)value, levelTriggered: false);
                break;
            default:
                WriteShared(offset, (uint)value);
                break;
        }
        return true;
    }

    /// <summary>Ends the highest interrupt in service, and tells the I/O APICs of one that was level-triggered (SDM volume 3, section 12.8.5).</summary>
    public void EndOfInterrupt()
    {
        int vector = Page.Highest(ApicRegister.InService);
        if (vector < 0)
            return;
        Page.Reset(ApicRegister.InService, vector);
        NotifyEndOfInterrupt((byte)vector);
        NotifyIfDeliverable();
    }

    private static bool IsX2ApicReadable(uint offset) => IsReadable(offset)
        && offset is not (ApicRegister.DestinationFormat or ApicRegister.CommandHigh or ApicRegister.EndOfInterrupt or ApicRegister.SelfIpi
            or ApicRegister.ArbitrationPriority or ApicRegister.RemoteRead);

    private static bool IsReadable(uint offset) => offset switch
    {
        ApicRegister.Id or ApicRegister.Version => true,
        >= ApicRegister.TaskPriority and <= ApicRegister.SpuriousVector => offset != ApicRegister.EndOfInterrupt,
        >= ApicRegister.InService and <= ApicRegister.ErrorStatus => true,
        >= ApicRegister.CommandLow and <= ApicRegister.CurrentCount => true,
        ApicRegister.DivideConfiguration => true,
        _ => false,
    };

    private static bool IsWritable(uint offset) => offset switch
    {
        ApicRegister.Id or ApicRegister.TaskPriority or ApicRegister.EndOfInterrupt => true,
        ApicRegister.LogicalDestination or ApicRegister.DestinationFormat or ApicRegister.SpuriousVector => true,
        ApicRegister.ErrorStatus => true,
        >= ApicRegister.CommandLow and <= ApicRegister.InitialCount => true,
        ApicRegister.DivideConfiguration or ApicRegister.SelfIpi => true,
        _ => false,
    };

    // The bits that software may set, for the entries of the local vector table (SDM volume 3, figure 12-8).
    private static uint LvtWritable(uint offset) => offset switch
    {
        ApicRegister.LvtTimer => 0x0007_00FF,
        ApicRegister.LvtThermal or ApicRegister.LvtPerformance => 0x0001_07FF,
        ApicRegister.LvtLint0 or ApicRegister.LvtLint1 => 0x0001_A7FF,
        _ => 0x0001_00FF,
    };

    // In x2APIC mode reserved bits are checked (SDM volume 3, section 12.12.1.3); status bits may be written as read.
    private static ulong X2ApicReserved(uint offset) => offset switch
    {
        ApicRegister.TaskPriority => ~0xFFUL,
        ApicRegister.EndOfInterrupt or ApicRegister.ErrorStatus => ulong.MaxValue,
        ApicRegister.SpuriousVector => ~0x1_3FFUL & ~0x1000UL,
        ApicRegister.CommandLow => 0xFFF3_2000,
        ApicRegister.DivideConfiguration => ~0xBUL,
        ApicRegister.SelfIpi => ~0xFFUL,
        ApicRegister.LvtLint0 or ApicRegister.LvtLint1 => ~0x0001_F7FFUL,
        >= ApicRegister.LvtTimer and <= ApicRegister.LvtError => ~(ulong)(LvtWritable(offset) | 1 << 12),
        _ => 0xFFFF_FFFF_0000_0000,
    };

    private uint ReadRegister(uint offset) => offset switch
    {
        ApicRegister.ArbitrationPriority => ArbitrationPriority,
        ApicRegister.ProcessorPriority => ProcessorPriority,
        ApicRegister.InitialCount => _timer.InitialCount,
        ApicRegister.CurrentCount => _timer.CurrentCount,
        _ => Page[offset],
    };

    // SDM volume 3, section 12.6.2.4.
    private uint ArbitrationPriority
    {
        get
        {
            uint task = Page[ApicRegister.TaskPriority] & 0xFF;
            uint service = (uint)Math.Max(Page.Highest(ApicRegister.InService), 0) & 0xF0;
            uint request = (uint)Math.Max(Page.Highest(ApicRegister.Request), 0) & 0xF0;
            return (task & 0xF0) >= request && (task & 0xF0) > service ? task : Math.Max(task & service, request);
        }
    }

    // What is written the same way in both modes.
    private void WriteShared(uint offset, uint value)
    {
        switch (offset)
        {
            case ApicRegister.TaskPriority:
                SetTaskPriority(value);
                break;
            case ApicRegister.EndOfInterrupt:
                EndOfInterrupt();
                break;
            case ApicRegister.SpuriousVector:
                Page[offset] = value & (0x3FF | SuppressEoiBroadcast);
                if ((value & SoftwareEnabled) == 0)
                    MaskLocalVectors();
                else
                    NotifyIfDeliverable();
                _bus.IdentityChanged?.Invoke();
                break;
            case ApicRegister.ErrorStatus:
                Page[offset] = _pendingErrors;
                _pendingErrors = 0;
                break;
            case ApicRegister.InitialCount:
                _timer.SetInitialCount(value);
                Page[offset] = _timer.InitialCount;
                break;
            case ApicRegister.DivideConfiguration:
                Page[offset] = value & 0xB;
                _timer.SetDivide(value);
                break;
            case >= ApicRegister.LvtTimer and <= ApicRegister.LvtError:
                WriteLocalVector(offset, value);
                break;
            default:
                break;
        }
    }

    private void WriteLocalVector(uint offset, uint value)
    {
        value &= LvtWritable(offset);
        if (!IsSoftwareEnabled)
            value |= LvtMasked;
        Page[offset] = value;
        if (offset == ApicRegister.LvtTimer)
        {
            _timer.SetMode((ApicTimerMode)(value >> 17 & 3));
            Page[ApicRegister.InitialCount] = _timer.InitialCount;
        }
        else if (offset == ApicRegister.LvtLint0 && _lint0)
            SetLint0(true);
    }

    private void MaskLocalVectors()
    {
        for (uint lvt = ApicRegister.LvtTimer; lvt <= ApicRegister.LvtError; lvt += 16)
            Page[lvt] |= LvtMasked;
    }

    // The interrupt command register (SDM volume 3, section 12.6.1). Delivery is immediate: the status bit always reads idle.
    private void SendCommand(uint command, uint destination)
    {
        DeliveryMode mode = (DeliveryMode)(command >> 8 & 7);
        byte vector = (byte)command;
        bool level = (command & 1 << 15) != 0;
        bool assert = (command & 1 << 14) != 0;
        if (mode is DeliveryMode.Fixed or DeliveryMode.LowestPriority && vector < 16)
        {
            RaiseError(ErrorSendIllegalVector);
            return;
        }
        // The level de-assert INIT only synchronised arbitration IDs, on processors of long ago.
        if (mode == DeliveryMode.Init && level && !assert)
            return;
        if (mode is (DeliveryMode)3 or DeliveryMode.ExtInt)
            return;
        bool logical = (command & 1 << 11) != 0;
        InterruptMessage message = new(destination, logical, mode, vector, LevelTriggered: false);
        _bus.Send(this, message, (ApicShorthand)(command >> 18 & 3));
    }
}
