using Vmm.EndToEnd.Tests.Installations;
using Xunit;
using Xunit.Abstractions;

namespace Vmm.EndToEnd.Tests.Journeys;

/// <summary>Journeys with everything in one process.</summary>
public sealed class EmbeddedLinuxJourneys(EmbeddedInstallation installation, ITestOutputHelper log) : LinuxJourneys(installation, log), IClassFixture<EmbeddedInstallation>;

/// <inheritdoc cref="EmbeddedLinuxJourneys"/>
public sealed class EmbeddedNestedJourneys(EmbeddedInstallation installation) : NestedJourneys(installation), IClassFixture<EmbeddedInstallation>;

/// <inheritdoc cref="EmbeddedLinuxJourneys"/>
public sealed class EmbeddedHotplugJourneys(EmbeddedInstallation installation, ITestOutputHelper log) : HotplugJourneys(installation, log), IClassFixture<EmbeddedInstallation>;

/// <inheritdoc cref="EmbeddedLinuxJourneys"/>
[RequiresNightly]
public sealed class EmbeddedSnapshotJourneys(EmbeddedInstallation installation, ITestOutputHelper log) : SnapshotJourneys(installation, log), IClassFixture<EmbeddedInstallation>;

/// <inheritdoc cref="EmbeddedLinuxJourneys"/>
[RequiresNightly]
public sealed class EmbeddedNestedStateJourneys(EmbeddedInstallation installation) : NestedStateJourneys(installation), IClassFixture<EmbeddedInstallation>;
