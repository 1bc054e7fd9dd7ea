//! Catalog: the jobs of a program, picked by name.

use super::Job;

/// The jobs of one program: a [`Job`], or a tuple of some, the first of which is run where none is named.
pub trait Jobs: 'static {
    /// One line for `--help`.
    const ABOUT: &'static str;

    /// Returns what there is to pick from.
    fn list() -> Vec<Listed>;

    /// Calls `visitor` with the job called `name`; `None` if there is none.
    fn pick<V: Visitor>(name: &str, visitor: V) -> Option<V::Output>;
}

/// A job to pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// As [`Job::NAME`].
    pub name: &'static str,
    /// As [`Job::ABOUT`].
    pub about: &'static str,
    /// As [`Job::PICKED_BY`].
    pub picked_by: Option<&'static str>,
}

/// Something that is done with a job, whichever it is.
pub trait Visitor {
    type Output;

    fn visit<J: Job>(self) -> Self::Output;
}

impl Listed {
    const fn of<J: Job>() -> Self {
        Self { name: J::NAME, about: J::ABOUT, picked_by: J::PICKED_BY }
    }
}

impl<J: Job> Jobs for J {
    const ABOUT: &'static str = J::ABOUT;

    fn list() -> Vec<Listed> {
        vec![Listed::of::<J>()]
    }

    fn pick<V: Visitor>(name: &str, visitor: V) -> Option<V::Output> {
        (name == J::NAME).then(|| visitor.visit::<J>())
    }
}

/// Makes tuples of jobs catalogs.
macro_rules! catalogs {
    ($($jobs:ident)*) => {
        impl<$($jobs: Job),*> Jobs for ($($jobs,)*) {
            const ABOUT: &'static str = "Run MapReduce jobs on as many machines as you can reach";

            fn list() -> Vec<Listed> {
                vec![$(Listed::of::<$jobs>()),*]
            }

            fn pick<V: Visitor>(name: &str, visitor: V) -> Option<V::Output> {
                $(if name == $jobs::NAME {
                    return Some(visitor.visit::<$jobs>());
                })*
                None
            }
        }
    };
}

catalogs!(A B);
catalogs!(A B C);
catalogs!(A B C D);
catalogs!(A B C D E);
catalogs!(A B C D E F);
catalogs!(A B C D E F G);
catalogs!(A B C D E F G H);
catalogs!(A B C D E F G H I);
catalogs!(A B C D E F G H I J);
catalogs!(A B C D E F G H I J K);
catalogs!(A B C D E F G H I J K L);
