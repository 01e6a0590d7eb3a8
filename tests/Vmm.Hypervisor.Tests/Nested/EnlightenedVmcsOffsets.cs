using Vmm.Processor.Vmx;

namespace Vmm.Hypervisor.Tests.Nested;

/// <summary>
/// Where the fields of an enlightened VMCS are, as a C compiler has it of the structure in Linux's header for the Hyper-V specification
/// (hyperv-tlfs.h of 6.1), under the header's names.
/// </summary>
internal static class EnlightenedVmcsOffsets
{
    public static readonly (VmcsField Field, string Name, int Offset)[] All =
    [
        (VmcsField.HostEsSelector, "host_es_selector", 8), (VmcsField.HostCsSelector, "host_cs_selector", 10),
        (VmcsField.HostSsSelector, "host_ss_selector", 12), (VmcsField.HostDsSelector, "host_ds_selector", 14),
        (VmcsField.HostFsSelector, "host_fs_selector", 16), (VmcsField.HostGsSelector, "host_gs_selector", 18),
        (VmcsField.HostTrSelector, "host_tr_selector", 20), (VmcsField.HostPat, "host_ia32_pat", 24), (VmcsField.HostEfer, "host_ia32_efer", 32),
        (VmcsField.HostCr0, "host_cr0", 40), (VmcsField.HostCr3, "host_cr3", 48), (VmcsField.HostCr4, "host_cr4", 56),
        (VmcsField.HostSysenterEsp, "host_ia32_sysenter_esp", 64), (VmcsField.HostSysenterEip, "host_ia32_sysenter_eip", 72),
        (VmcsField.HostRip, "host_rip", 80), (VmcsField.HostSysenterCs, "host_ia32_sysenter_cs", 88),
        (VmcsField.PinBasedControls, "pin_based_vm_exec_control", 92), (VmcsField.VmExitControls, "vm_exit_controls", 96),
        (VmcsField.SecondaryControls, "secondary_vm_exec_control", 100), (VmcsField.IoBitmapA, "io_bitmap_a", 104),
        (VmcsField.IoBitmapB, "io_bitmap_b", 112), (VmcsField.MsrBitmaps, "msr_bitmap", 120), (VmcsField.GuestEsSelector, "guest_es_selector", 128),
        (VmcsField.GuestCsSelector, "guest_cs_selector", 130), (VmcsField.GuestSsSelector, "guest_ss_selector", 132),
        (VmcsField.GuestDsSelector, "guest_ds_selector", 134), (VmcsField.GuestFsSelector, "guest_fs_selector", 136),
        (VmcsField.GuestGsSelector, "guest_gs_selector", 138), (VmcsField.GuestLdtrSelector, "guest_ldtr_selector", 140),
        (VmcsField.GuestTrSelector, "guest_tr_selector", 142), (VmcsField.GuestEsLimit, "guest_es_limit", 144),
        (VmcsField.GuestCsLimit, "guest_cs_limit", 148), (VmcsField.GuestSsLimit, "guest_ss_limit", 152),
        (VmcsField.GuestDsLimit, "guest_ds_limit", 156), (VmcsField.GuestFsLimit, "guest_fs_limit", 160),
        (VmcsField.GuestGsLimit, "guest_gs_limit", 164), (VmcsField.GuestLdtrLimit, "guest_ldtr_limit", 168),
        (VmcsField.GuestTrLimit, "guest_tr_limit", 172), (VmcsField.GuestGdtrLimit, "guest_gdtr_limit", 176),
        (VmcsField.GuestIdtrLimit, "guest_idtr_limit", 180), (VmcsField.GuestEsAccessRights, "guest_es_ar_bytes", 184),
        (VmcsField.GuestCsAccessRights, "guest_cs_ar_bytes", 188), (VmcsField.GuestSsAccessRights, "guest_ss_ar_bytes", 192),
        (VmcsField.GuestDsAccessRights, "guest_ds_ar_bytes", 196), (VmcsField.GuestFsAccessRights, "guest_fs_ar_bytes", 200),
        (VmcsField.GuestGsAccessRights, "guest_gs_ar_bytes", 204), (VmcsField.GuestLdtrAccessRights, "guest_ldtr_ar_bytes", 208),
        (VmcsField.GuestTrAccessRights, "guest_tr_ar_bytes", 212), (VmcsField.GuestEsBase, "guest_es_base", 216),
        (VmcsField.GuestCsBase, "guest_cs_base", 224), (VmcsField.GuestSsBase, "guest_ss_base", 232), (VmcsField.GuestDsBase, "guest_ds_base", 240),
        (VmcsField.GuestFsBase, "guest_fs_base", 248), (VmcsField.GuestGsBase, "guest_gs_base", 256),
        (VmcsField.GuestLdtrBase, "guest_ldtr_base", 264), (VmcsField.GuestTrBase, "guest_tr_base", 272),
        (VmcsField.GuestGdtrBase, "guest_gdtr_base", 280), (VmcsField.GuestIdtrBase, "guest_idtr_base", 288),
        (VmcsField.VmExitMsrStoreAddress, "vm_exit_msr_store_addr", 320), (VmcsField.VmExitMsrLoadAddress, "vm_exit_msr_load_addr", 328),
        (VmcsField.VmEntryMsrLoadAddress, "vm_entry_msr_load_addr", 336), (VmcsField.Cr3Target0, "cr3_target_value0", 344),
        (VmcsField.Cr3Target1, "cr3_target_value1", 352), (VmcsField.Cr3Target2, "cr3_target_value2", 360),
        (VmcsField.Cr3Target3, "cr3_target_value3", 368), (VmcsField.PageFaultErrorCodeMask, "page_fault_error_code_mask", 376),
        (VmcsField.PageFaultErrorCodeMatch, "page_fault_error_code_match", 380), (VmcsField.Cr3TargetCount, "cr3_target_count", 384),
        (VmcsField.VmExitMsrStoreCount, "vm_exit_msr_store_count", 388), (VmcsField.VmExitMsrLoadCount, "vm_exit_msr_load_count", 392),
        (VmcsField.VmEntryMsrLoadCount, "vm_entry_msr_load_count", 396), (VmcsField.TscOffset, "tsc_offset", 400),
        (VmcsField.VirtualApicAddress, "virtual_apic_page_addr", 408), (VmcsField.VmcsLinkPointer, "vmcs_link_pointer", 416),
        (VmcsField.GuestDebugCtl, "guest_ia32_debugctl", 424), (VmcsField.GuestPat, "guest_ia32_pat", 432),
        (VmcsField.GuestEfer, "guest_ia32_efer", 440), (VmcsField.GuestPdpte0, "guest_pdptr0", 448), (VmcsField.GuestPdpte1, "guest_pdptr1", 456),
        (VmcsField.GuestPdpte2, "guest_pdptr2", 464), (VmcsField.GuestPdpte3, "guest_pdptr3", 472),
        (VmcsField.GuestPendingDebugExceptions, "guest_pending_dbg_exceptions", 480), (VmcsField.GuestSysenterEsp, "guest_sysenter_esp", 488),
        (VmcsField.GuestSysenterEip, "guest_sysenter_eip", 496), (VmcsField.GuestActivityState, "guest_activity_state", 504),
        (VmcsField.GuestSysenterCs, "guest_sysenter_cs", 508), (VmcsField.Cr0Mask, "cr0_guest_host_mask", 512),
        (VmcsField.Cr4Mask, "cr4_guest_host_mask", 520), (VmcsField.Cr0Shadow, "cr0_read_shadow", 528),
        (VmcsField.Cr4Shadow, "cr4_read_shadow", 536), (VmcsField.GuestCr0, "guest_cr0", 544), (VmcsField.GuestCr3, "guest_cr3", 552),
        (VmcsField.GuestCr4, "guest_cr4", 560), (VmcsField.GuestDr7, "guest_dr7", 568), (VmcsField.HostFsBase, "host_fs_base", 576),
        (VmcsField.HostGsBase, "host_gs_base", 584), (VmcsField.HostTrBase, "host_tr_base", 592), (VmcsField.HostGdtrBase, "host_gdtr_base", 600),
        (VmcsField.HostIdtrBase, "host_idtr_base", 608), (VmcsField.HostRsp, "host_rsp", 616), (VmcsField.EptPointer, "ept_pointer", 624),
        (VmcsField.VirtualProcessorId, "virtual_processor_id", 632), (VmcsField.GuestPhysicalAddress, "guest_physical_address", 680),
        (VmcsField.VmInstructionError, "vm_instruction_error", 688), (VmcsField.ExitReason, "vm_exit_reason", 692),
        (VmcsField.VmExitInterruptionInformation, "vm_exit_intr_info", 696), (VmcsField.VmExitInterruptionErrorCode, "vm_exit_intr_error_code", 700),
        (VmcsField.IdtVectoringInformation, "idt_vectoring_info_field", 704), (VmcsField.IdtVectoringErrorCode, "idt_vectoring_error_code", 708),
        (VmcsField.VmExitInstructionLength, "vm_exit_instruction_len", 712), (VmcsField.VmExitInstructionInformation, "vmx_instruction_info", 716),
        (VmcsField.ExitQualification, "exit_qualification", 720), (VmcsField.IoRcx, "exit_io_instruction_ecx", 728),
        (VmcsField.IoRsi, "exit_io_instruction_esi", 736), (VmcsField.IoRdi, "exit_io_instruction_edi", 744),
        (VmcsField.IoRip, "exit_io_instruction_eip", 752), (VmcsField.GuestLinearAddress, "guest_linear_address", 760),
        (VmcsField.GuestRsp, "guest_rsp", 768), (VmcsField.GuestRflags, "guest_rflags", 776),
        (VmcsField.GuestInterruptibility, "guest_interruptibility_info", 784), (VmcsField.ProcessorBasedControls, "cpu_based_vm_exec_control", 788),
        (VmcsField.ExceptionBitmap, "exception_bitmap", 792), (VmcsField.VmEntryControls, "vm_entry_controls", 796),
        (VmcsField.VmEntryInterruptionInformation, "vm_entry_intr_info_field", 800),
        (VmcsField.VmEntryExceptionErrorCode, "vm_entry_exception_error_code", 804),
        (VmcsField.VmEntryInstructionLength, "vm_entry_instruction_len", 808), (VmcsField.TprThreshold, "tpr_threshold", 812),
        (VmcsField.GuestRip, "guest_rip", 816), (VmcsField.GuestBndcfgs, "guest_bndcfgs", 896), (VmcsField.XssExitingBitmap, "xss_exit_bitmap", 960),
    ];

    public static int Of(VmcsField field) => All.Single(entry => entry.Field == field).Offset;
}
