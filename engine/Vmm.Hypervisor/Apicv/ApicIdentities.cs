using System.Numerics;
using Vmm.Hypervisor.Apic;

namespace Vmm.Hypervisor.Apicv;

/// <summary>Which inhibits follow from how the guest has set up its local APICs. All of them are judged anew after each change.</summary>
internal static class ApicIdentities
{
    public static ApicvInhibit Judge(ReadOnlySpan<LocalApic> apics)
    {
        ApicvInhibit reasons = ApicvInhibit.None;
        for (int k = 0; k < apics.Length; k++)
        {
            LocalApic apic = apics[k];
            if (apic.Mode == ApicMode.Disabled)
                continue;
            if (apic.BaseAddress != LocalApic.DefaultBase)
                reasons |= ApicvInhibit.ApicBaseModified;
            if (apic.Id != apic.InitialId)
                reasons |= ApicvInhibit.ApicIdModified;
            if (HasLogicalId(apic) && BitOperations.PopCount(Members(apic)) != 1)
                reasons |= ApicvInhibit.LogicalIdAliased;
            foreach (LocalApic other in apics[..k])
            {
                if (other.Mode == ApicMode.Disabled)
                    continue;
                if (other.Id == apic.Id)
                    reasons |= ApicvInhibit.PhysicalIdAliased;
                if (HasLogicalId(apic) && HasLogicalId(other) && Overlap(apic, other))
                    reasons |= ApicvInhibit.LogicalIdAliased;
            }
        }
        return reasons;
    }

    // In x2APIC mode logical IDs follow from the physical ones and are unique. One of zero names nobody.
    private static bool HasLogicalId(LocalApic apic) => apic.Mode == ApicMode.XApic && apic.IsSoftwareEnabled && Members(apic) != 0;

    // The bits that stand for processors: all eight in the flat model, four of a cluster in the other (SDM volume 3, section 12.6.2.2).
    private static uint Members(LocalApic apic)
    {
        uint id = apic.Page[ApicRegister.LogicalDestination] >> 24;
        return IsFlat(apic) ? id : id & 15;
    }

    private static bool Overlap(LocalApic one, LocalApic other)
    {
        if (IsFlat(one) != IsFlat(other))
            return false;
        bool sameCluster = IsFlat(one) || (one.Page[ApicRegister.LogicalDestination] ^ other.Page[ApicRegister.LogicalDestination]) >> 28 == 0;
        return sameCluster && (Members(one) & Members(other)) != 0;
    }

    private static bool IsFlat(LocalApic apic) => apic.Page[ApicRegister.DestinationFormat] >> 28 == 15;
}
